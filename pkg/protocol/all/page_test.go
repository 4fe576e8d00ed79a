package all

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/policy/policytest"
	"github.com/headgate/headgate/pkg/protocol"
)

// page is docs/policy.md.
func page(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestThePageHasEveryFact(t *testing.T) {
	text := page(t)
	kinds := map[policy.FactKind]string{
		policy.FactBool: "bool", policy.FactInt: "int", policy.FactString: "string", policy.FactStrings: "list of strings",
	}
	for name, facts := range Facts(Protocols(protocol.Settings{})) {
		rows := strings.Count(text, "| `"+facts.Variable+".")
		if rows != len(facts.Fields) {
			t.Errorf("%s has %d facts, the page %d", name, len(facts.Fields), rows)
		}
		for _, f := range facts.Fields {
			if row := fmt.Sprintf("| `%s.%s` | %s | %s |", facts.Variable, f.Name, kinds[f.Kind], f.Doc); !strings.Contains(text, row) {
				t.Errorf("the page lacks %s", row)
			}
		}
	}
}

func TestThePoliciesOfThePageCompile(t *testing.T) {
	protocols := Protocols(protocol.Settings{})
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(page(t), -1)
	if len(blocks) == 0 {
		t.Fatal("the page has no policy")
	}
	options := policy.Options{Vocabulary: Vocabulary(protocols), Facts: Facts(protocols), Metered: Metered(protocols)}
	var before *policy.File
	for i, b := range blocks {
		name := fmt.Sprintf("block-%d.yaml", i+1)
		if strings.Contains(b[1], "\ntests:") {
			runPageTests(t, name, b[1], before, policytest.Options{Policy: options, Read: func(protocol, text string) ([]policy.Operation, error) {
				return Read(protocols, protocol, text)
			}})
			continue
		}
		file, err := policy.Parse(name, []byte(b[1]))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := options.Compile(file); err != nil {
			t.Error(err)
		}
		before = file
	}
}

// runPageTests runs tests of the page against the policy before them.
func runPageTests(t *testing.T, name, text string, about *policy.File, options policytest.Options) {
	t.Helper()
	tests, err := policytest.Parse(name, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	report, err := options.Run(policytest.Suite{Tests: tests, Policies: []*policy.File{about}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		for _, failure := range r.Failures {
			t.Errorf("%s: %s: %s", r.At, r.Name, failure)
		}
	}
	if report.CoveredParts() < len(report.Coverage) {
		t.Errorf("the tests of %s leave something out: %+v", name, report.Coverage)
	}
}

// The table of texts has the facts of each, in the order of its head.
func TestTheTextsOfThePageSayWhatItSays(t *testing.T) {
	protocols := Protocols(protocol.Settings{})
	_, table, ok := strings.Cut(page(t), "| text | has_where | tables | written | functions |\n")
	if !ok {
		t.Fatal("the page has no table of texts")
	}
	rows := 0
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 || !strings.Contains(cells[0], "`") {
			continue
		}
		rows++
		operations, err := Read(protocols, "postgres", strings.Trim(cells[0], " `"))
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range []string{"has_where", "tables", "written", "functions"} {
			value, err := operations[len(operations)-1].Facts.Fact(name)
			got := strings.Trim(fmt.Sprint(value), "[]")
			if errors.Is(err, policy.ErrUnknownFact) {
				got = "unknown"
			}
			if want := strings.TrimSpace(cells[i+1]); got != want {
				t.Errorf("%s: %s is %s, the page says %s", cells[0], name, got, want)
			}
		}
	}
	if rows < 5 {
		t.Errorf("the table has %d rows", rows)
	}
}
