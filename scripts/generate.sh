#!/usr/bin/env bash
# Compiles bpf/*.bpf.c and writes the Go beside it: generate.sh [--check] [clang]
# With --check nothing is changed: the result is compared with what is committed.
set -euo pipefail
cd "$(dirname "$0")/.."

check=no
[ "${1:-}" = --check ] && { check=yes; shift; }
clang=${1:-clang-19}
strip=llvm-strip-${clang#clang-}

if ! command -v "$clang" >/dev/null; then
  echo "generate: $clang is not installed; the committed objects were built with clang-19" >&2
  echo "hint: apt-get install clang-19 llvm-19   (a build of headgate itself needs only Go)" >&2
  exit 1
fi
command -v "$strip" >/dev/null || { echo "generate: $strip is not installed" >&2; echo "hint: apt-get install llvm-${clang#clang-}" >&2; exit 1; }

before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
cp bpf/*_bpfel.go bpf/*_bpfel.o "$before"/ 2>/dev/null || true
BPF2GO_CC=$clang BPF2GO_STRIP=$strip go generate ./bpf
[ "$check" = yes ] || exit 0

status=0
for f in bpf/*_bpfel.go bpf/*_bpfel.o; do
  if ! cmp -s "$f" "$before/$(basename "$f")"; then
    echo "generate-check: $f differs from what $clang makes of the sources; run make generate and commit" >&2
    status=1
  fi
done
cp "$before"/* bpf/
[ "$status" = 0 ] && echo "generate-check: the committed objects are what $clang makes of the sources"
exit "$status"
