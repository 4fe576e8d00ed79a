#!/usr/bin/env bash
# Runs what needs a whole machine (systemd as PID 1, other kernels, BPF LSM, the root of the cgroups, containers) in
# virtual ones, and writes docs/coverage-vm.md from what they print:
#   test-vm.sh [MACHINE...]   6.12, 6.1: Debian's kernels; 6.1-nolsm: the same one, booted without BPF LSM; default: all
#   test-vm.sh --docs         writes the page anew from the results that are there
# Fails if a job fails or does not end. About an hour for all of it. Needs what scripts/vm/build.sh needs, and Go.
#   HEADGATE_VM_JOBS     only these jobs: escape, namespaces, lsm, service, kernel
#   HEADGATE_VM_CACHE    where images and results are kept (see scripts/vm/build.sh)
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${HEADGATE_VM_CACHE:-/var/cache/headgate-vm}
results=$cache/results
page=docs/coverage-vm.md
all_machines=(6.12 6.1 6.1-nolsm)
all_jobs=(escape namespaces lsm service kernel)

usage() { sed -n 's/^# \{0,1\}//; 2,8p' "$0" >&2; exit 2; }
say() { echo "test-vm: $*" >&2; }

# Seconds for boot and job, on an emulated processor of a machine that does other things as well.
patience() {
  case $1 in
    escape) echo 1800 ;;
    kernel) echo 1900 ;;
    *) echo 900 ;;
  esac
}

# What a machine without BPF LSM is for is who gets out there.
is_tried() { [ "$1" != 6.1-nolsm ] || [ "$2" = escape ] || [ "$2" = namespaces ]; }

prepare() { # DIR JOB
  if [ "$2" = kernel ]; then
    CGO_ENABLED=0 go test -c -o "$1/kernel.test" ./pkg/kernel
    printf '%s\n' '#!/bin/sh' "HEADGATE_PRIVILEGED=1 exec ./kernel.test -test.v -test.run '^TestPrivileged' \\" \
      "  -test.skip 'HookCosts|HookLatency|ForksAndExecs' -test.timeout 1800s" >"$1/run"
  else
    cp bin/headgate scripts/vm/jobs/*.py "$1/"
    cp -r scripts/systemd "$1/systemd"
    printf '%s\n' '#!/bin/sh' "exec python3 -u $2.py" >"$1/run"
  fi
  chmod 755 "$1/run"
}

# try MACHINE JOB: runs it, keeps what it printed; fails if it did.
try() {
  local machine=$1 job=$2 dir status=0 append=
  [ "$machine" != 6.1-nolsm ] || append="lsm=landlock,lockdown,yama,integrity,apparmor"
  dir=$(mktemp -d)
  prepare "$dir" "$job"
  say "$job on $machine"
  HEADGATE_VM_APPEND=$append scripts/vm/run.sh "${machine%-*}" "$dir" "$(patience "$job")" >"$results/.$machine.part" || status=$?
  rm -rf "$dir"
  printf '%s\n' "STATUS|$status" "COMMIT|$(git describe --always --dirty --abbrev=7)" >>"$results/.$machine.part"
  mv "$results/.$machine.part" "$results/$machine.$job"
  grep -E '^RESULT[|].*[|]FAIL[|]|^ *--- FAIL' "$results/$machine.$job" >&2 || true
  say "$job on $machine: status $status, $(grep -cE '^RESULT[|]|^--- (PASS|FAIL)' "$results/$machine.$job" || true) results, $(
    grep -cE '^RESULT[|].*[|]FAIL[|]|^--- FAIL' "$results/$machine.$job" || true) failed"
  [ "$status" = 0 ]
}

# The page: one table for each job, in the order in which things were found out.
table() {
  local machine job files=()
  for machine in "${all_machines[@]}"; do
    for job in "${all_jobs[@]}"; do
      [ ! -e "$results/$machine.$job" ] || files+=("$results/$machine.$job")
    done
  done
  [ ${#files[@]} -gt 0 ] || { say "no results in $results"; return 1; }
  awk -F'|' -v machines="${all_machines[*]}" -v jobs="${all_jobs[*]}" "$program" "${files[@]}"
}

# shellcheck disable=SC2016 # awk's own
program='
FNR == 1 {
  sub(/.*\//, "", FILENAME)
  match(FILENAME, /[.][a-z]+$/)
  machine = substr(FILENAME, 1, RSTART - 1); job = substr(FILENAME, RSTART + 1)
  ran[machine, job] = 1; has[machine] = 1; any[job] = 1
}
{ sub(/\r$/, "") }
$1 == "FACT" {
  fact[job, $3, machine] = $4
  if ($3 ~ /^variant /) { v = substr($3, 9); if (!(v in about)) variant[++variants] = v; about[v] = $4 }
  if ($3 ~ /^remedy /) remedy[substr($3, 8)] = $4
  if ($3 ~ /^note / && !(substr($3, 6) in note)) { noted[++notes] = substr($3, 6); note[noted[notes]] = $4 }
}
$1 == "RESULT" {
  row = $3 (job != "escape" && $4 != "" ? ": " $4 : "")
  if (!((job, row) in known) && (job != "escape" || $4 != "")) { known[job, row] = 1; rows[job, ++n[job]] = row }
  found = $5 == "FAIL" ? $7 " (**failing**: should be " $6 ")" : $7 == "not covered" ? "**not covered**" : $7
  cell[job, row, $4, machine] = found
  tries[job, $4, machine] = 1
  results[machine, job]++; failing[machine, job] += $5 == "FAIL"
  if (job == "escape" && $7 == "not covered" && $4 != "nobody") open[row] = 1
}
/^--- (PASS|FAIL|SKIP)/ { results[machine, job]++; failing[machine, job] += /^--- FAIL/; skipped[machine, job] += /^--- SKIP/ }
$1 == "STATUS" { status[machine, job] = $2 }
$1 == "COMMIT" { commit[machine, job] = $2 }

# The machines that tried a variant, if not all that ran the job did.
function only(job, v,   i, names, count) {
  for (i = 1; i <= nm; i++) if ((job, v, name[i]) in tries) names = names (count++ ? ", " : "") name[i]
  return count < tried[job] ? " (" names ")" : ""
}

# What machines found, each named unless all agree.
function merged(job, row, v,   i, m, w, words, by, text, order) {
  for (i = 1; i <= nm; i++) {
    m = name[i]
    if (!((job, row, v, m) in cell)) continue
    w = cell[job, row, v, m]
    if (!(w in by)) { words++; order[words] = w; by[w] = m } else by[w] = by[w] ", " m
  }
  if (words == 0) return "-"
  if (words == 1) return order[1]
  for (i = 1; i <= words; i++) text = text (i > 1 ? "; " : "") by[order[i]] ": " order[i]
  return text
}

END {
  nm = split(machines, name, " "); nj = split(jobs, jobname, " ")
  for (i = 1; i <= nm; i++) for (j = 1; j <= nj; j++) if ((name[i], jobname[j]) in ran) tried[jobname[j]]++

  print "# What whole machines showed\n"
  print "Written by scripts/test-vm.sh from what its jobs printed in virtual machines: Debian 12, systemd as PID 1, the programs attached to the"
  print "root of the cgroups, the daemon as the unit that we ship. Do not edit it. Single ways out of a process are in [coverage.md](coverage.md).\n"
  print "| machine | kernel | BPF LSM programs | unix sockets are |\n|---|---|---|---|"
  for (i = 1; i <= nm; i++) if (name[i] in has)
    print "| " name[i] " | " fact["escape", "kernel", name[i]] " | " fact["escape", "BPF LSM programs", name[i]] " | " fact["escape", "unix sockets", name[i]] " |"
  print "\n| job | machine | of commit | results | failing | skipped | ended |\n|---|---|---|---|---|---|---|"
  for (j = 1; j <= nj; j++) for (i = 1; i <= nm; i++) {
    m = name[i]; k = jobname[j]
    if ((m, k) in ran)
      print "| " k " | " m " | " commit[m, k] " | " results[m, k] + 0 " | " failing[m, k] + 0 " | " skipped[m, k] + 0 " | " (status[m, k] == 0 ? "well" : status[m, k] == 124 ? "**time was up**" : "with status " status[m, k]) " |"
  }

  if (any["escape"]) escape()
  title["namespaces"] = "Networks of their own"; title["lsm"] = "The hardening tier"; title["service"] = "The service"
  for (j = 1; j <= nj; j++) if (any[jobname[j]] && jobname[j] in title) plain(jobname[j])
}

function escape(   i, j, line) {
  print "\n## Who else may act for a job\n"
  print "A job (a unit with `User=agent`, who has sudo without a password, a crontab, linger, and a key for ssh to this host) tries to have"
  print "somebody else connect for it, to a witness that a rule allows.\n"
  print "- **mediated**: the record has a session for every connection that the witness got."
  print "- **refused**: the way is open, and the connection at its end is refused."
  print "- **shut**: the way itself fails; nobody acts for the job."
  print "- **not covered**: the witness was reached and the record does not know."
  print "- A cell without the name of a machine holds for all that tried: all of the above, or those that the head of the column names.\n"
  print "| column | what holds there |\n|---|---|"
  for (i = 1; i <= variants; i++) print "| " variant[i] " | " about[variant[i]] " |"
  line = "\n| way |"
  for (i = 1; i <= variants; i++) line = line " " variant[i] only("escape", variant[i]) " |"
  print line
  line = "|---|"
  for (i = 1; i <= variants; i++) line = line "---|"
  print line
  for (j = 1; j <= n["escape"]; j++) {
    line = "| " rows["escape", j] " |"
    for (i = 1; i <= variants; i++) line = line " " merged("escape", rows["escape", j], variant[i]) " |"
    print line
  }
  print "\n### Not covered, and what to do\n\n| way | what to do |\n|---|---|"
  for (j = 1; j <= n["escape"]; j++) if (rows["escape", j] in open) print "| " rows["escape", j] " | " remedy[rows["escape", j]] " |"
  print "\n### Remarks\n"
  for (i = 1; i <= notes; i++) print "- **" noted[i] "**: " note[noted[i]]
  print "- **not tried**: Docker, containerd, CRI-O and Kubernetes themselves; systemd older than 252; other distributions; arm64."
}

function plain(job,   i, j, line) {
  print "\n## " title[job] "\n"
  line = "| what |"
  for (i = 1; i <= nm; i++) if ((name[i], job) in ran) line = line " " name[i] " |"
  print line
  gsub(/[^|]+/, "---", line)
  print line
  for (j = 1; j <= n[job]; j++) {
    line = "| " rows[job, j] " |"
    for (i = 1; i <= nm; i++) if ((name[i], job) in ran) line = line " " plaincell(job, rows[job, j], name[i]) " |"
    print line
  }
}

function plaincell(job, row, m,   k, part) {
  for (k in cell) {
    split(k, part, SUBSEP)
    if (part[1] == job && part[2] == row && part[4] == m) return cell[k]
  }
  return "-"
}'

main() {
  local machine job known failed=0 machines=("$@") jobs
  [ ${#machines[@]} -gt 0 ] || machines=("${all_machines[@]}")
  read -ra jobs <<<"${HEADGATE_VM_JOBS:-${all_jobs[*]}}"
  for machine in "${machines[@]}"; do
    known=" ${all_machines[*]} "
    [[ $known = *" $machine "* ]] || usage
  done
  make build
  scripts/vm/build.sh
  mkdir -p "$results"
  for machine in "${machines[@]}"; do
    for job in "${jobs[@]}"; do
      is_tried "$machine" "$job" || continue
      [ "$job" = kernel ] || [ -e "scripts/vm/jobs/$job.py" ] || { say "no job $job: skipped"; continue; }
      try "$machine" "$job" || failed=1
    done
  done
  table >"$results/page"
  cat "$results/page" >"$page"
  say "wrote $page"
  return "$failed"
}

case "${1:-}" in
  --docs) table >"$results/page" && cat "$results/page" >"$page" ;;
  -*) usage ;;
  *) main "$@" ;;
esac
