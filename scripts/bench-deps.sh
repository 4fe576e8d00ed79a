#!/usr/bin/env bash
# Installs what make bench compares with (Debian packages). Does nothing where all of it is there. None of it is started
# as a service: make bench starts what it needs by itself, with files of its own.
set -euo pipefail

packages=(postgresql postgresql-client pgbouncer haproxy util-linux iproute2)
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)

missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if [ "${#missing[@]}" -eq 0 ]; then
  echo "bench dependencies: all there" >&2
  exit 0
fi
echo "bench dependencies: installing ${missing[*]}" >&2
# What asks this file, as Debian's scripts do, starts no service. Whoever has one has decided already.
refusal=/usr/sbin/policy-rc.d
if [ ! -e "$refusal" ]; then
  trap '"${sudo[@]}" rm -f "$refusal"' EXIT
  printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$refusal" >/dev/null
  "${sudo[@]}" chmod 755 "$refusal"
fi
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
