package policytest

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/policy/strict"
)

// sample is a report with everything in it: two files, a test that passed, one that
// failed twice and one of masks alone, and a mask that is in no test.
func sample() *Report {
	at := func(file string, line int) strict.Position { return strict.Position{File: file, Line: line, Column: 5} }
	return &Report{
		Results: []Result{
			{File: "a_test.yaml", Name: `reads "a" <b> & c`, At: at("a_test.yaml", 3), Decision: "allow", Rule: "reads"},
			{File: "a_test.yaml", Name: "drops", At: at("a_test.yaml", 7), Decision: "allow", Rule: "all", Failures: []string{`want deny, got "allow" <x>`, "mode: want observe, got enforce"}},
			{File: "b_test.yaml", Name: "masks", At: at("b_test.yaml", 4)},
		},
		Coverage: []Covered{
			{policy.Part{Kind: policy.PartRule, Name: "reads", At: at("a.yaml", 9)}, 2},
			{policy.Part{Kind: policy.PartRule, Name: "all", At: at("a.yaml", 11)}, 1},
			{policy.Part{Kind: policy.PartMask, Name: "mails", At: at("a.yaml", 15)}, 0},
		},
	}
}

func render(t *testing.T, write func(*bytes.Buffer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTheTableSaysWhatFailedWhereAndWhatIsInNoTest(t *testing.T) {
	got := render(t, func(b *bytes.Buffer) error { return sample().WriteTable(b) })
	want := `a_test.yaml
  ok    reads "a" <b> & c
  FAIL  drops
        a_test.yaml:7:5: want deny, got "allow" <x>
        a_test.yaml:7:5: mode: want observe, got enforce
b_test.yaml
  ok    masks
a.yaml:15:5: mask mails is in no test
3 tests, 2 passed, 1 failed; 2 of 3 rules and masks covered (66.6%)
`
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestTheJSONHasStableKeys(t *testing.T) {
	var got any
	if err := json.Unmarshal([]byte(render(t, func(b *bytes.Buffer) error { return sample().WriteJSON(b) })), &got); err != nil {
		t.Fatal(err)
	}
	result := func(file string, line float64, name string, passed bool) map[string]any {
		return map[string]any{"file": file, "line": line, "column": 5.0, "name": name, "passed": passed}
	}
	reads, drops, masks := result("a_test.yaml", 3, `reads "a" <b> & c`, true), result("a_test.yaml", 7, "drops", false), result("b_test.yaml", 4, "masks", true)
	reads["decision"], reads["rule"] = "allow", "reads"
	drops["decision"], drops["rule"] = "allow", "all"
	drops["failures"] = []any{`want deny, got "allow" <x>`, "mode: want observe, got enforce"}
	part := func(kind, name string, line, tests float64) map[string]any {
		return map[string]any{"kind": kind, "name": name, "file": "a.yaml", "line": line, "column": 5.0, "tests": tests}
	}
	want := map[string]any{
		"tests": 3.0, "passed": 2.0, "failed": 1.0, "results": []any{reads, drops, masks},
		"coverage": map[string]any{
			"percent": 66.6, "covered": 2.0, "total": 3.0,
			"parts": []any{part("rule", "reads", 9, 2), part("rule", "all", 11, 1), part("mask", "mails", 15, 0)},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	empty := render(t, func(b *bytes.Buffer) error { return (&Report{}).WriteJSON(b) })
	if !strings.Contains(empty, `"results": []`) || !strings.Contains(empty, `"parts": []`) || !strings.Contains(empty, `"percent": 100`) {
		t.Errorf("nothing is %s", empty)
	}
}

func TestTheJUnitFormIsReadBack(t *testing.T) {
	text := render(t, func(b *bytes.Buffer) error { return sample().WriteJUnit(b) })
	var got suitesXML
	if err := xml.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	got.XMLName = xml.Name{}
	want := suitesXML{
		Name: "headgate policy test", Tests: 3, Failures: 1,
		Suites: []suiteXML{
			{Name: "a_test.yaml", Tests: 2, Failures: 1, Cases: []caseXML{
				{Name: `reads "a" <b> & c`, Class: "a_test.yaml", File: "a_test.yaml", Line: 3, Time: "0"},
				{Name: "drops", Class: "a_test.yaml", File: "a_test.yaml", Line: 7, Time: "0", Failure: &failureXML{
					Message: `want deny, got "allow" <x>`, Type: "policy",
					Text: "a_test.yaml:7:5: want deny, got \"allow\" <x>\na_test.yaml:7:5: mode: want observe, got enforce",
				}},
			}},
			{Name: "b_test.yaml", Tests: 1, Cases: []caseXML{{Name: "masks", Class: "b_test.yaml", File: "b_test.yaml", Line: 4, Time: "0"}}},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// full is a place where nothing can be written.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space") }

func TestAReportThatCannotBeWrittenIsAnError(t *testing.T) {
	for name, err := range map[string]error{
		"table": sample().WriteTable(full{}), "json": sample().WriteJSON(full{}), "junit": sample().WriteJUnit(full{}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCoverageIsNeverRoundedUp(t *testing.T) {
	r := &Report{}
	for i := range 3000 {
		c := Covered{}
		if i > 0 {
			c.Tests = 1
		}
		r.Coverage = append(r.Coverage, c)
	}
	if got := r.Percent(); got != 99.9 {
		t.Errorf("2999 of 3000 are %v", got)
	}
}
