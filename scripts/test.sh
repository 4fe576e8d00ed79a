#!/usr/bin/env bash
# Runs the tests and says what was skipped and why: test.sh unit|privileged
# The unit run takes everything with the race detector; tests that need root are skipped there by name.
# The privileged run takes only those, and a skip for want of privileges is a failure in it.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  unit)
    args=(-race -skip '^TestPrivileged') ;;
  privileged)
    export HEADGATE_PRIVILEGED=1
    args=(-run '^TestPrivileged' -p 1) ;;
  *) echo "usage: $0 unit|privileged" >&2; exit 2 ;;
esac

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
go test -v -count=1 -timeout 20m "${args[@]}" ./... >"$log" 2>&1 || status=$?

grep -E '^(FAIL|panic:|--- FAIL|\s+--- FAIL)' "$log" || true
if [ "$status" != 0 ]; then
  echo "--- the output of what failed:"
  awk '/^=== RUN/ {buf=""} {buf=buf $0 "\n"} /--- FAIL/ {printf "%s", buf; buf=""}' "$log" | tail -n 400
  grep -E -A40 '^(panic:|# |fatal error:|WARNING: DATA RACE)' "$log" | head -n 200 || true
fi
grep -E '^ok ' "$log" | awk '{printf "ok   %s %s\n", $2, $3}' || true
echo "skipped:"
grep -A3 -E -- '--- SKIP' "$log" | grep -v -- '^--$' | head -n 60 || echo "  nothing"
passed=$(grep -c -E '^\s*--- PASS' "$log" || true)
failed=$(grep -c -E '^\s*--- FAIL' "$log" || true)
skipped=$(grep -c -E '^\s*--- SKIP' "$log" || true)
echo "$1: $passed passed, $failed failed, $skipped skipped"
exit "$status"
