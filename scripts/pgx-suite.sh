#!/usr/bin/env bash
# Runs the test suite of the driver pgx twice, directly and as an enrolled tree under a policy that allows everything,
# and fails if a single test ends differently. Needs root, a PostgreSQL server, and the network for the driver's modules:
# the tests themselves run in a network namespace without one. HEADGATE_SHORTCUTS=off runs it through a gate that takes
# none (protocols.shortcuts in the configuration).
set -euo pipefail
cd "$(dirname "$0")/.."

module=github.com/jackc/pgx/v5
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT

# What the suite imports beyond the driver comes from the driver's own go.mod. A copy, because the cache is read-only.
go mod download "$module"
cp -r "$(go list -m -f '{{.Dir}}' "$module")" "$tmp/pgx"
chmod -R u+w "$tmp/pgx"
(cd "$tmp/pgx" && GOWORK=off GOFLAGS=-mod=mod go list -deps -test ./... >/dev/null)

status=0
HEADGATE_PRIVILEGED=1 HEADGATE_PGX_SUITE=1 go test -v -count=1 -timeout 15m \
  -run '^TestPgxSuiteHasTheSameResultThroughTheGate$' ./pkg/internal/e2e | tee "$tmp/log" || status=$?
if [ "$status" = 0 ] && ! grep -q '^--- PASS: TestPgxSuite' "$tmp/log"; then
  echo "pgx: it did not run, and it was asked for by name" >&2
  status=1
fi
exit "$status"
