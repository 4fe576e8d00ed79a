#!/usr/bin/env bash
# gofmt, go vet, golangci-lint. The linter's version is pinned in scripts/tools.mod and built by Go itself.
set -euo pipefail
cd "$(dirname "$0")/.."

unformatted=$(gofmt -l bpf cmd pkg)
if [ -n "$unformatted" ]; then
  echo "not gofmt-ed:" >&2
  echo "$unformatted" >&2
  exit 1
fi
go vet ./...
go tool -modfile=scripts/tools.mod golangci-lint run ./...
echo "lint: clean"
