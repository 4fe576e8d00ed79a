#!/usr/bin/env bash
# Prints what the programs in the kernel cost: bench-hooks.sh [rounds]
# First the time in each program, as the kernel's own statistics have it; the first row is what the clock alone costs.
# Then what an application pays for a call, in processor time and in interleaved rounds. No timing decides about success.
# It attaches to cgroups of its own and needs the privileges of the privileged tests.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-30}
HEADGATE_PRIVILEGED=1 HEADGATE_HOOK_ROUNDS=$rounds \
  timeout 1200 go test -count=1 -timeout 19m -v -run '^TestPrivilegedHook(Costs|Latency)$' ./pkg/kernel
