#!/usr/bin/env bash
# Runs the tests and says what was skipped and why: test.sh unit|privileged|clients
# The unit run takes everything with the race detector, but for the tests that are named TestPrivileged.
# The privileged run takes only those, one package after another; there a skip is a failure. Of these, the run with
# clients takes what compares people's programs with and without the gate.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=./...
case "${1:-}" in
  unit)
    export HEADGATE_TESTS=all   # what test-deps.sh installs has to be there
    args=(-race -skip '^TestPrivileged') ;;
  privileged)
    export HEADGATE_PRIVILEGED=1
    args=(-run '^TestPrivileged' -p 1) ;;
  clients)
    export HEADGATE_PRIVILEGED=1
    packages=./pkg/internal/e2e
    args=(-run '^TestPrivileged(Clients|ReplicationClients)') ;;
  *) echo "usage: $0 unit|privileged|clients" >&2; exit 2 ;;
esac

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
go test -v -count=1 -timeout 20m "${args[@]}" "$packages" >"$log" 2>&1 || status=$?
if [ "$1" = unit ]; then # once more what looks at every byte, without the shortcuts of PostgreSQL
  HEADGATE_SHORTCUTS=off go test -v -count=1 -timeout 5m -run '^Test(Protocol|HostileSidesAtRandom|.*Large.*|.*TLS.*)$' ./pkg/protocol/postgres >>"$log" 2>&1 || status=$?
fi

grep -E '^ok ' "$log" | awk '{printf "ok   %s %s\n", $2, $3}' || true
if [ "$status" != 0 ]; then
  echo "what failed:"
  grep -E '^(FAIL|panic:|fatal error:|WARNING: DATA RACE)|--- FAIL' "$log" | sort -u | head -n 60 || true
  # A test's lines from its start to its verdict; everything where the program ended.
  awk '/^=== RUN/ {buf=""} {buf=buf $0 "\n"} /--- FAIL/ {printf "%s", buf; buf=""}' "$log" | grep -v -E -- '--- (PASS|SKIP)|^=== ' | tail -n 300 || true
  grep -E -A60 '^(panic:|# |fatal error:|WARNING: DATA RACE)' "$log" | head -n 300 || true
fi
echo "skipped:"
awk '/\.go:[0-9]+: / {why=$0} /--- SKIP/ {sub(/^ +/, ""); sub(/^ +[^ ]+ /, "", why); print "  " $3 ":" why; why=""}' "$log" | sort | uniq -c | sort -rn | head -n 60
if grep -q 'lines in .* through the gate' "$log"; then
  echo "clients, with and without the gate:"
  sed -nE 's/^ +[a-z_]+\.go:[0-9]+: (.*: direct [0-9]+ lines in .* through the gate .*)$/  \1/p' "$log"
fi
passed=$(grep -c -E '^\s*--- PASS' "$log" || true)
failed=$(grep -c -E '^\s*--- FAIL' "$log" || true)
skipped=$(grep -c -E '^\s*--- SKIP' "$log" || true)
echo "$1: $passed passed, $failed failed, $skipped skipped"
exit "$status"
