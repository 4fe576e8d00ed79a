package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// result is a row as it ended.
type result struct {
	Group   string `json:"group"`
	Name    string `json:"name"`
	Root    bool   `json:"root,omitempty"`
	Outcome string `json:"outcome"`
	Seen    string `json:"seen,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Remedy  string `json:"remedy,omitempty"`
}

// compareResults fails the test where a row ended differently from what is
// committed. What this kernel lacks, or the one lacked that the results are of,
// is no difference.
func compareResults(t *testing.T, got []result) {
	t.Helper()
	want := committedResults(t)
	if len(want) == len(got) {
		for i := range want {
			if got[i].Outcome == unavailable || want[i].Outcome == unavailable {
				want[i].Outcome, want[i].Seen, want[i].Reason, want[i].Remedy = got[i].Outcome, got[i].Seen, got[i].Reason, got[i].Remedy
			}
		}
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("not the result that is committed; scripts/coverage.sh writes the new one (-committed +now):\n%s", diff)
	}
}

func committedResults(t *testing.T) []result {
	t.Helper()
	text, err := os.ReadFile(resultsFile)
	check(t, err)
	var rows []result
	check(t, json.Unmarshal(text, &rows))
	return rows
}

const (
	coverageDoc   = "../../../docs/coverage.md"
	readme        = "../../../README.md"
	coverageBegin = "<!-- coverage:begin -->\n"
	coverageEnd   = "<!-- coverage:end -->"
)

// What is written about the ways out is what the test of them found. With
// HEADGATE_COVERAGE_WRITE=1 it writes that instead.
func TestCoverageTablesAreMadeOfTheResults(t *testing.T) {
	rows := committedResults(t)
	text, err := os.ReadFile(readme)
	check(t, err)
	before, rest, found := strings.Cut(string(text), coverageBegin)
	_, after, ended := strings.Cut(rest, coverageEnd)
	if !found || !ended {
		t.Fatalf("%s has no section between %q and %q", readme, coverageBegin, coverageEnd)
	}
	for path, want := range map[string]string{
		coverageDoc: coverageTable(rows),
		readme:      before + coverageBegin + coverageSummary(rows) + coverageEnd + after,
	} {
		if os.Getenv("HEADGATE_COVERAGE_WRITE") == "1" {
			check(t, os.WriteFile(path, []byte(want), 0o644))
			continue
		}
		got, err := os.ReadFile(path)
		check(t, err)
		if diff := gocmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s is not made of %s; scripts/coverage.sh --docs does that (-want +is):\n%s", filepath.Base(path), resultsFile, diff)
		}
	}
}

// groups returns the rows by group, in the order of their first rows.
func groups(rows []result) (names []string, of map[string][]result) {
	of = map[string][]result{}
	for _, r := range rows {
		if of[r.Group] == nil {
			names = append(names, r.Group)
		}
		of[r.Group] = append(of[r.Group], r)
	}
	return names, of
}

// coverageTable is docs/coverage.md.
func coverageTable(rows []result) string {
	var b strings.Builder
	b.WriteString(`# Ways out of the gate

Written by scripts/coverage.sh from what TestPrivilegedWaysOut found: each row is tried by an enrolled process against a
witness that notes who reaches it. Unless the row says root, the process is an unprivileged user's, the third of a detached tree
of ` + "`headgate run --confine=none`" + `, on a kernel that loads no BPF LSM programs.

- **mediated**: the proxy served it; the record has a session of this process to exactly this target.
- **refused**: the call fails and nothing arrives, nor leaves. "seen as" is the kernel's counter (` + "`headgate status`, metric\n  `headgate_kernel_denied_total`" + `), which the record has as an event of kind *escape* with the process that tried; *session* is a denied
  session in the record, *answer* the daemon's own answer, *permissions* the system's, *filter* that of ` + "`headgate run --confine`" + `,
  *errno* nothing but the errno.
- **not covered**: it works. The row says why, and what to do.
- **harmless**: it works and leads nowhere.
- **failing**: it does not end as it must, and counts as not covered.
- **unavailable**: the kernel of the tests lacks it. Nothing was tried, nothing is promised.
`)
	names, of := groups(rows)
	for _, name := range names {
		fmt.Fprintf(&b, "\n## %s\n\n| way out | as | outcome | seen as | why, and what to do |\n|---|---|---|---|---|\n", title(name))
		for _, r := range of[name] {
			as := "user"
			if r.Root {
				as = "root"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.Name, as, emphasised(r.Outcome), r.Seen, strings.Join(nonEmpty(r.Reason, r.Remedy), "; "))
		}
	}
	return b.String()
}

// coverageSummary is the section of README.md.
func coverageSummary(rows []result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Each of %d ways out is a row in [docs/coverage.md](docs/coverage.md), tried by `TestPrivilegedWaysOut` on every run: by an unprivileged user\n"+
		"where the row does not say root, without `--confine` and without BPF LSM where it does not say so.\n\n", len(rows))
	outcomes := slices.DeleteFunc([]string{mediated, refused, harmless, notCovered, failing, unavailable}, func(outcome string) bool {
		return !slices.ContainsFunc(rows, func(r result) bool { return r.Outcome == outcome })
	})
	heads := strings.Replace(strings.Join(outcomes, " | "), unavailable, unavailable+" in the tests", 1)
	fmt.Fprintf(&b, "| | %s |\n|%s\n", heads, strings.Repeat("---|", len(outcomes)+1))
	names, of := groups(rows)
	for _, name := range names {
		n := map[string]int{}
		for _, r := range of[name] {
			n[r.Outcome]++
		}
		fmt.Fprintf(&b, "| %s |", title(name))
		for _, outcome := range outcomes {
			cell := fmt.Sprintf(" %d |", n[outcome])
			if n[outcome] == 0 {
				cell = " |"
			}
			b.WriteString(cell)
		}
		b.WriteByte('\n')
	}
	b.WriteString("\nNot covered:\n\n| way out | why | what to do |\n|---|---|---|\n")
	open := slices.DeleteFunc(slices.Clone(rows), func(r result) bool { return r.Outcome != notCovered && r.Outcome != failing })
	for _, r := range open {
		name := title(r.Group) + ": " + r.Name
		if r.Root {
			name += " (root)"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, r.Reason, r.Remedy)
	}
	return b.String()
}

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func emphasised(outcome string) string {
	if outcome == notCovered || outcome == failing {
		return "**" + outcome + "**"
	}
	return outcome
}

func nonEmpty(list ...string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return s == "" })
}
