#!/usr/bin/env bash
# Boots a kernel of build.sh's image and runs DIR/run in it, as root, with the contents of DIR around it:
#   run.sh KERNEL DIR [SECONDS]      KERNEL: 6.1 or 6.12; SECONDS (default 600): boot and job together
# The job's output comes to stdout, progress and trouble to stderr. Exits with the job's status; 124 when time
# is up, 125 when the guest never came to the job. Whatever the guest changes is forgotten.
#   HEADGATE_VM_CACHE    where build.sh keeps its results
#   HEADGATE_VM_CONSOLE  a file to keep the guest's console in
#   HEADGATE_VM_APPEND   more for the kernel's command line
set -euo pipefail

say() { echo "vm-run: $*" >&2; }
usage() { echo "usage: $0 6.1|6.12 DIR [SECONDS]" >&2; exit 2; }

{ [ $# -ge 2 ] && [ $# -le 3 ]; } || usage
kernel=$1 dir=$2 seconds=${3:-600}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || usage
cache=${HEADGATE_VM_CACHE:-/var/cache/headgate-vm}
for f in "$cache/root.img" "$cache/vmlinuz-$kernel" "$cache/initrd-$kernel"; do
  [ -e "$f" ] || { say "$f is missing; hint: scripts/vm/build.sh"; exit 125; }
done
[ -x "$dir/run" ] || { say "$dir/run is not an executable file"; exit 2; }
command -v qemu-system-x86_64 >/dev/null || { say "qemu is missing; hint: apt-get install qemu-system-x86"; exit 125; }

work=$(mktemp -d)
console=${HEADGATE_VM_CONSOLE:-$work/console}
machine=
# shellcheck disable=SC2317 # a trap calls it
stop() {
  if [ -n "$machine" ]; then
    kill "$machine" 2>/dev/null || true
    wait "$machine" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Room for what the job writes beside itself.
size=$(($(du -sm --apparent-size "$dir" | cut -f1) * 5 / 4 + 256))
truncate -s "${size}M" "$work/job.img"
mke2fs -q -t ext4 -L headgate-job -d "$dir" "$work/job.img"
: >"$work/status"
: >"$console"

# shellcheck disable=SC2054 # the commas are qemu's
args=(
  -accel tcg,thread=multi -cpu max -smp 2 -m 1536   # never KVM: a nested one is not to be relied on
  -display none -monitor none -no-reboot -nic none
  -kernel "$cache/vmlinuz-$kernel" -initrd "$cache/initrd-$kernel"
  -append "root=LABEL=headgate-root rw console=ttyS0 quiet panic=1 systemd.show_status=yes ${HEADGATE_VM_APPEND:-}"
  -snapshot
  -drive "file=$cache/root.img,format=raw,if=virtio"
  -drive "file=$work/job.img,format=raw,if=virtio"
  # The console, the job's output, what became of the job.
  -serial "file:$console" -serial stdio -serial "file:$work/status"
)
began=$SECONDS
say "boot kernel $kernel"
timeout --kill-after=5 "$seconds" qemu-system-x86_64 "${args[@]}" </dev/null &
machine=$!

started=
while kill -0 "$machine" 2>/dev/null; do
  if [ -z "$started" ] && grep -q '^started' "$work/status"; then
    started=yes
    say "job started after $((SECONDS - began)) s"
  fi
  sleep 0.3
done
ended=0
wait "$machine" || ended=$?
machine=

status=$(sed -n 's/^status \([0-9]\{1,3\}\)\r\{0,1\}$/\1/p' "$work/status")
if [ -n "$status" ]; then
  say "job ended with $status after $((SECONDS - began)) s"
  exit "$status"
fi
if grep -q '^started' "$work/status"; then
  say "the job did not end: $([ "$ended" = 124 ] && echo "time is up ($seconds s)" || echo "the machine stopped (qemu: $ended)"); the console's end:"
else
  say "the guest never came to the job (qemu: $ended, $((SECONDS - began)) s); the console's end:"
fi
tail -n 40 "$console" | tr -d '\r' >&2
[ "$ended" = 124 ] && exit 124
exit 125
