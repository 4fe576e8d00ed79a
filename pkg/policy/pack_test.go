package policy

import (
	"net/netip"
	"os"
	"testing"

	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/policy/strict"
)

// identityOf is a principal with groups.
func identityOf(issuer, subject string, groups ...string) identity.Principal {
	return identity.Principal{Issuer: issuer, Subject: subject, Groups: groups}
}

// packTests are the promises of a pack, in the file beside it.
type packTests struct {
	Resource resourceSyntax `yaml:"resource"`
	Tests    []packTest     `yaml:"tests"`
}

type packTest struct {
	Name    string   `yaml:"name"`
	Groups  []string `yaml:"groups"`
	Effects []string `yaml:"effects"`
	Want    string   `yaml:"want"`
	Rule    string   `yaml:"rule"`
	// Socket and Address are what the kernel judges; an empty Want says that
	// the pack does not concern them.
	Socket  string `yaml:"socket"`
	Address string `yaml:"address"`
	// Masked is a column that must be masked, Clear one that must not.
	Masked string `yaml:"masked"`
	Clear  string `yaml:"clear"`
	// Searched is a column by which rows may be chosen, Unsearched one by which
	// they may not, and Kept one that may not be copied.
	Searched   string `yaml:"searched"`
	Unsearched string `yaml:"unsearched"`
	Kept       string `yaml:"kept"`
}

func runPack(t *testing.T, name string) {
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	pack, err := Parse(name, data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Compile(1, pack); err != nil {
		t.Fatalf("the pack alone: %v", err)
	}
	promises := name[:len(name)-len(".yaml")] + "_test.yaml"
	data, err = os.ReadFile(promises)
	if err != nil {
		t.Fatal(err)
	}
	var tests packTests
	if errs := strict.Decode(promises, data, &tests, strict.Positions{}); len(errs) > 0 {
		t.Fatal(errs)
	}
	files := []*File{pack}
	if tests.Resource.Name != "" {
		files = append(files, mustParse(t, "version: 1\n"+resourcesOf(tests.Resource)))
	}
	e, err := Compile(1, files...)
	if err != nil {
		t.Fatal(err)
	}
	if idle := e.Idle(); len(idle) > 0 {
		t.Errorf("applies to nothing: %q", idle)
	}
	for _, test := range tests.Tests {
		t.Run(test.Name, func(t *testing.T) { runPackTest(t, e, test) })
	}
}

func resourcesOf(r resourceSyntax) string {
	return "resources: [{name: " + r.Name + ", protocol: " + r.Protocol + ", hosts: ['10.0.3.7:5432']}]\n"
}

func runPackTest(t *testing.T, e *Engine, test packTest) {
	if test.Socket+test.Address != "" {
		verdict, rule := judged(t, e, test)
		if want := map[string]string{"deny": "denied", "allow": "direct"}[test.Want]; verdict != want || rule != test.Rule {
			t.Errorf("%q by %q, want %q by %q", verdict, rule, want, test.Rule)
		}
		return
	}
	req := &Request{Target: appDB, Principal: identityOf("people", "eve", test.Groups...), Operation: Operation{Effects: test.Effects}}
	if d := e.Decide(req); test.Want != "" && (d.Verdict.String() != test.Want || d.Rule != test.Rule) {
		t.Errorf("%q: %s by %s, want %s by %s", test.Effects, d.Verdict, d.Rule, test.Want, test.Rule)
	}
	for column, want := range map[string]bool{test.Masked: true, test.Clear: false} {
		if _, got := e.Masks(req).Column("public", "t", column); column != "" && got != want {
			t.Errorf("column %s masked: %v, want %v", column, got, want)
		}
	}
	for column, want := range map[string]bool{test.Unsearched: true, test.Searched: false} {
		if got := e.Masks(req).NoPredicates().Protects(column); column != "" && got != want {
			t.Errorf("rows may not be chosen by column %s: %v, want %v", column, got, want)
		}
	}
	if test.Kept != "" && !e.Masks(req).NoCopies().Protects(test.Kept) {
		t.Errorf("column %s may be copied", test.Kept)
	}
}

// judged is what the kernel says about a socket or an address, and by which rule.
func judged(t *testing.T, e *Engine, test packTest) (verdict, rule string) {
	for _, s := range e.UnixSockets() {
		if s.Match(test.Socket) {
			return s.Verdict.String(), s.Rule
		}
	}
	if test.Address == "" {
		return "", ""
	}
	target, err := netip.ParseAddrPort(test.Address)
	if err != nil {
		t.Fatal(err)
	}
	d, _ := longest(e.Destinations(), &Request{Target: target})
	if d.Rule == "" {
		return "", ""
	}
	return d.Verdict.String(), d.Rule
}
