#!/usr/bin/env bash
# Tries every way out of the gate and writes what became of each: the results, docs/coverage.md and the section of README.md.
#   coverage.sh          runs the test (root) and, if every row ended as it must, writes all three
#   coverage.sh --as-is  the same, and says of the rows that did not that they are failing
#   coverage.sh --docs   writes the two texts anew from the results that are there
#   coverage.sh --check  fails where the texts are not made of the results
set -euo pipefail
cd "$(dirname "$0")/.."

results=pkg/internal/e2e/testdata/escape/coverage.json
tables() { CGO_ENABLED=0 go test -count=1 -run '^TestCoverageTablesAreMadeOfTheResults$' ./pkg/internal/e2e; }

case "${1:-}" in
  --check) tables ;;
  --docs) HEADGATE_COVERAGE_WRITE=1 tables ;;
  ""|--as-is)
    new=$(mktemp)
    trap 'rm -f "$new"' EXIT
    HEADGATE_PRIVILEGED=1 HEADGATE_COVERAGE="$new" go test -count=1 -timeout 10m -run '^TestPrivilegedWaysOut$' ./pkg/internal/e2e ||
      [ "${1:-}" = --as-is -a -s "$new" ]
    cat "$new" >"$results"
    HEADGATE_COVERAGE_WRITE=1 tables
    ;;
  *) echo "usage: $0 [--as-is|--docs|--check]" >&2; exit 2 ;;
esac
