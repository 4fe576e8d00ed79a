#!/usr/bin/env bash
# Makes the image and the kernels that run.sh boots: Debian 12 with systemd. Does nothing if they are there and up to date.
# Needs root, a Debian 12 host (its apt sources are used), debootstrap and mke2fs. Nothing is written in the repository.
#   HEADGATE_VM_CACHE    where the results are kept (default /var/cache/headgate-vm, about 2 GB)
#   HEADGATE_VM_SOURCES  a file of one-line apt sources to use instead of the host's
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${HEADGATE_VM_CACHE:-/var/cache/headgate-vm}
suite=bookworm

# version by which run.sh knows it = Debian's package
declare -A kernels=([6.1]=linux-image-cloud-amd64 [6.12]=linux-image-6.12-cloud-amd64)

packages=(
  initramfs-tools zstd kmod udev                       # virtio and ext4 are modules in the cloud kernels
  systemd systemd-sysv libpam-systemd dbus dbus-user-session
  sudo cron at openssh-server openssh-client           # the ways by which a process leaves its tree
  procps util-linux iproute2 iptables curl python3
  podman crun conmon uidmap busybox-static             # a container's root file system is made of busybox
  postgresql-15 postgresql-client-15                   # tests start clusters of their own
)

say() { echo "vm-build: $*"; }
die() { echo "vm-build: $*" >&2; exit 1; }

# The stamp is the recipe's checksum: a changed recipe makes a new image.
stamp() { cat "$here"/build.sh "$here"/guest/* | sha256sum | cut -d' ' -f1; }

# The host's own sources of Debian, as lines. Others (a node list, a cloud vendor's) are of no use to the guest.
sources() {
  if [ -n "${HEADGATE_VM_SOURCES:-}" ]; then
    cat "$HEADGATE_VM_SOURCES"
    return
  fi
  # shellcheck disable=SC2016 # apt expands these
  apt-get indextargets --format '$(ORIGIN)|$(RELEASE)|$(REPO_URI)|$(COMPONENT)' 'Identifier: Packages' |
    awk -F'|' -v suite="$suite" '$1 == "Debian" && index($2, suite) == 1 {print "deb", $3, $2, $4}' | sort -u
}

in_root() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }

# Quiet unless it fails; then its last lines say why.
logged() {
  "$@" >>"$work/log" 2>&1 </dev/null && return
  tail -n 40 "$work/log" >&2
  die "failed: $*"
}

bootstrap() {
  local mirror
  mirror=$(awk -v suite="$suite" '$3 == suite && $4 == "main" {print $2; exit}' "$work/sources")
  [ -n "$mirror" ] || die "no source of Debian $suite on this host; name a file of sources in HEADGATE_VM_SOURCES"
  if [ ! -e "$cache/base.tar" ]; then
    say "debootstrap $suite (some minutes)"
    logged debootstrap --variant=minbase "$suite" "$root" "$mirror"
    tar -C "$root" -cf "$work/base.tar" .
    mv "$work/base.tar" "$cache/base.tar"
  else
    say "unpack what debootstrap made before"
    mkdir "$root"
    tar -C "$root" -xpf "$cache/base.tar"
  fi
}

configure_before_packages() {
  cp "$work/sources" "$root/etc/apt/sources.list"
  apt-config dump --format '%f "%v";%n' Acquire >"$root/etc/apt/apt.conf.d/00host"   # proxies, a clock that is off
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"                       # start no service in the chroot
  chmod 755 "$root/usr/sbin/policy-rc.d"
  echo headgate-vm >"$root/etc/hostname"
  printf '127.0.0.1 localhost headgate-vm\n::1 localhost\n' >"$root/etc/hosts"
  mkdir -p "$root/etc/initramfs-tools/conf.d" "$root/etc/postgresql-common"
  # A small initrd: it is unpacked by an emulated processor at every boot.
  echo MODULES=list >"$root/etc/initramfs-tools/conf.d/headgate"
  echo COMPRESS=zstd >>"$root/etc/initramfs-tools/conf.d/headgate"
  printf '%s\n' virtio_pci virtio_blk ext4 crc32c_generic crc32c_intel >"$root/etc/initramfs-tools/modules"
  echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.conf"
}

install_packages() {
  mount -t proc proc "$root/proc"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount --rbind /dev "$root/dev"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  logged in_root apt-get update
  say "install the packages (some minutes)"
  logged in_root apt-get install -y --no-install-recommends "${packages[@]}"
  # Only now, so that the initrds are made once and of the list above.
  echo 'LABEL=headgate-root / ext4 defaults 0 1' >"$root/etc/fstab"
  for version in "${!kernels[@]}"; do
    say "install kernel $version"
    logged in_root apt-get install -y --no-install-recommends "${kernels[$version]}"
  done
  logged in_root apt-get clean
  umount -R "$root/dev" "$root/sys" "$root/proc"
  rm -rf "$root"/usr/sbin/policy-rc.d "$root"/etc/apt/apt.conf.d/00host "$root"/var/lib/apt/lists/*
}

# agent: what a machine for agents gives one. outsider: somebody else on the same machine.
configure_users() {
  in_root useradd --create-home --shell /bin/bash --uid 1500 --user-group agent
  in_root useradd --create-home --shell /bin/bash --uid 1501 --user-group outsider
  echo 'agent ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/agent"
  chmod 440 "$root/etc/sudoers.d/agent"
  mkdir -p "$root/var/lib/systemd/linger"
  touch "$root/var/lib/systemd/linger/agent"           # systemd-run --user works without a login

  local ssh=/home/agent/.ssh
  in_root install -d -m 700 -o agent -g agent "$ssh"
  in_root runuser -u agent -- ssh-keygen -q -t ed25519 -N '' -f "$ssh/id_ed25519"
  in_root runuser -u agent -- cp "$ssh/id_ed25519.pub" "$ssh/authorized_keys"
  awk '{print "localhost,127.0.0.1,::1", $1, $2}' "$root"/etc/ssh/ssh_host_*_key.pub >"$root/etc/ssh/ssh_known_hosts"
}

# A container's root file system: podman run --rootfs /opt/container sh
configure_container() {
  local dir=$root/opt/container applet
  mkdir -p "$dir"/{bin,dev,etc,proc,sys,tmp,run,root}
  cp "$root/bin/busybox" "$dir/bin/busybox"
  for applet in sh cat echo env id ls nc ps sleep wget mount ip; do ln -s busybox "$dir/bin/$applet"; done
  echo 'root:x:0:0:root:/root:/bin/sh' >"$dir/etc/passwd"
  echo 'root:x:0:' >"$dir/etc/group"
}

configure_boot() {
  install -m 755 "$here/guest/job" "$root/usr/local/sbin/headgate-vm-job"
  install -m 644 "$here/guest/headgate-vm-job.service" "$here/guest/headgate-vm.target" "$root/etc/systemd/system/"
  ln -sf headgate-vm.target "$root/etc/systemd/system/default.target"
  # Work at boot that no test needs, and that an emulated processor takes long for.
  local unit
  for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
    dpkg-db-backup.timer logrotate.timer man-db.timer postgresql.service podman.service podman.socket \
    podman-auto-update.timer podman-auto-update.service podman-restart.service getty@tty1.service \
    serial-getty@ttyS0.service serial-getty@ttyS1.service serial-getty@ttyS2.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  mkdir -p "$root/etc/systemd/journald.conf.d"
  printf '[Journal]\nStorage=volatile\n' >"$root/etc/systemd/journald.conf.d/headgate.conf"
  : >"$root/etc/machine-id"
}

publish() {
  local version package image
  for version in "${!kernels[@]}"; do
    package=${kernels[$version]}
    # shellcheck disable=SC2016 # dpkg-query expands it
    image=$(in_root dpkg-query -W -f='${Depends}' "$package" | sed -E 's/^linux-image-([^ ,]+).*/\1/')
    [ -e "$root/boot/initrd.img-$image" ] || die "$package brought no initrd for $image"
    cp "$root/boot/vmlinuz-$image" "$work/vmlinuz-$version"
    cp "$root/boot/initrd.img-$image" "$work/initrd-$version"
    say "kernel $version is $image"
  done
  say "make the image"
  truncate -s 4G "$work/root.img"
  logged mke2fs -q -t ext4 -L headgate-root -E lazy_itable_init=1 -d "$root" "$work/root.img"
  for version in "${!kernels[@]}"; do
    mv "$work/vmlinuz-$version" "$work/initrd-$version" "$cache/"
  done
  mv "$work/root.img" "$cache/root.img"
  stamp >"$cache/stamp"
}

up_to_date() { [ -e "$cache/root.img" ] && [ "$(cat "$cache/stamp" 2>/dev/null)" = "$(stamp)" ]; }

main() {
  if up_to_date; then
    say "up to date in $cache"
    return
  fi
  [ "$(id -u)" = 0 ] || die "needs root"
  local tool
  for tool in debootstrap mke2fs apt-get; do
    command -v "$tool" >/dev/null || die "$tool is missing; hint: apt-get install debootstrap e2fsprogs"
  done
  mkdir -p "$cache"
  # The child inherits the lock: it is held for as long as anything of a build lives.
  exec {lock}>"$cache/lock"
  flock -n "$lock" || { say "another build is under way; waiting for it"; flock "$lock"; }
  if up_to_date; then
    say "it is up to date now"
    return
  fi
  rm -rf --one-file-system "$cache"/work.*   # of builds that were killed
  # A mount and a process name space of its own: whatever happens, no mount and no process is left on the host.
  HEADGATE_VM_INSIDE=1 unshare --mount --pid --fork --kill-child "$here/build.sh"
}

inside() {
  mount --make-rprivate /
  work=$(mktemp -d "$cache/work.XXXXXX")
  root=$work/root
  trap 'umount -R "$root"/{dev,sys,proc} 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
  sources >"$work/sources"
  bootstrap
  configure_before_packages
  install_packages
  configure_users
  configure_container
  configure_boot
  publish
  say "done: $(du -sh "$cache" | cut -f1) in $cache"
}

if [ -n "${HEADGATE_VM_INSIDE:-}" ]; then inside; else main; fi
