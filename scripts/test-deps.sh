#!/usr/bin/env bash
# Installs what the tests need, from Debian's packages. Does nothing where all of it is there.
set -euo pipefail

packages=(
  gcc libc6-dev         # the race detector needs cgo
  git make
  postgresql            # a real upstream; tests start clusters of their own
  postgresql-client
  util-linux iproute2   # setsid, ip netns
  dnsmasq-base bind9-dnsutils  # a name server, dig
  python3-minimal       # a client that is not Go, and that people know
)
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if [ "${#missing[@]}" -eq 0 ]; then
  echo "test dependencies: all there"
  exit 0
fi
echo "test dependencies: installing ${missing[*]}"
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
