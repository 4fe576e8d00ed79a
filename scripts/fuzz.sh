#!/usr/bin/env bash
# Runs every fuzz target of the module for a while: fuzz.sh [TIME per target, default 30s]
set -euo pipefail
cd "$(dirname "$0")/.."
each=${1:-30s}
grep -rl --include='*_test.go' '^func Fuzz' pkg cmd | xargs -n1 dirname | sort -u | while read -r dir; do
  grep -ho '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | sed 's/func //' | sort -u | while read -r target; do
    echo "== $dir $target ($each)"
    go test "./$dir" -run='^$' -fuzz="^${target}\$" -fuzztime="$each" -parallel=2
  done
done
