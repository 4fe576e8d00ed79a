package suggest

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// by is a request of psql, started by a shell, some minutes after noon.
func by(minutes int, agent, target, name string) policy.Request {
	shell := &process.Process{Image: &process.Image{Exe: "/bin/sh\n- injected", Argv: []string{"sh", "-c", "PGPASSWORD=hunter2 psql"}}}
	r := policy.Request{
		Agent: agent, Target: netip.MustParseAddrPort(target), Time: noon.Add(time.Duration(minutes) * time.Minute),
		Process: &process.Process{Image: &process.Image{Exe: "/usr/bin/psql", Argv: []string{"psql", "--password=hunter2"}}, Parent: shell},
	}
	if name != "" {
		r.Names = []string{name}
	}
	return r
}

func saw(r policy.Request, protocol, text string, effects ...string) policy.Observation {
	r.Operation = policy.Operation{Protocol: protocol, Verb: effects[0], Effects: effects, Text: text}
	return policy.Observation{Request: r, Verdict: policy.Allow, WouldHave: policy.Deny, Mode: policy.Observe, Rule: policy.DefaultRule, Reason: policy.ReasonUnknownResource}
}

func asks(r policy.Request, name string) policy.Observation {
	o := saw(r, "dns", "A "+name, "address")
	o.Request.Operation.Objects = []policy.Object{{Kind: "name", Name: name}}
	return o
}

// workload is what a build did.
func workload() []policy.Observation {
	repo := by(7, "ci", "10.0.3.7:5432", "db.internal")
	repo.Principal = identity.Principal{Issuer: "github", Subject: "repo:acme/web"}
	existing := saw(by(8, "ci", "10.0.9.9:443", ""), "tls", "ClientHello", "tls")
	existing.Resource, existing.Reason, existing.Rule = "kept", policy.ReasonUnmatched, policy.DefaultRule
	denied := saw(by(9, "ci", "10.0.3.7:5432", "db.internal"), "postgres", "DROP TABLE t", "drop")
	denied.Reason, denied.Rule = policy.ReasonRule, "no-drop"
	starred := saw(by(9, "ci", "10.0.3.7:5432", ""), "postgres", "SELECT 1", "select")
	starred.Request.Principal = identity.Principal{Issuer: "github", Subject: "repo:*"}
	list := []policy.Observation{
		saw(by(0, "ci", "10.0.3.7:5432", "db.internal"), "postgres", "", policy.Connect),
		saw(by(1, "ci", "10.0.3.7:5432", "db.internal"), "postgres", "SELECT 'hunter2'", "select"),
		saw(by(2, "ci", "10.0.3.7:5432", "db.internal"), "postgres", "INSERT INTO t VALUES ('hunter2')", "insert", "select"),
		saw(repo, "postgres", "SELECT 1", "select"),
		saw(by(3, "other", "10.0.3.8:22", ""), "tcp", "", policy.Connect),
		saw(by(4, "ci", "10.0.3.7:5432", "db.internal"), "postgres", "sElEkt", policy.Unknown),
		existing, denied, starred,
		asks(by(0, "ci", "10.0.0.53:53", ""), "db.internal"),
	}
	for _, name := range []string{"a.cdn.example.com", "b.cdn.example.com", "C.cdn.example.com.", "one.example.org"} {
		list = append(list, asks(by(5, "ci", "10.0.0.53:53", ""), name))
	}
	return list
}

var existingFile = `version: 1
agents: [{name: ci, users: [ci]}]
resources: [{name: kept, protocol: tls, hosts: ["10.0.9.9:443"]}]
rules: [{name: gone, effect: deny, resources: [kept]}]
masks: [{name: m, resources: ["*"], columns: ["*.*.ssn"], with: redact}]
`

func suggested(t *testing.T, observations []policy.Observation) string {
	t.Helper()
	f, err := policy.Parse("old.yaml", []byte(existingFile))
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Wildcard: 3, Mode: policy.Observe, Existing: []*policy.File{f}})
	for i := range observations {
		s.Add(&observations[i])
	}
	var text strings.Builder
	if err := s.Write(&text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestTheSuggestionIsTheSameInAnyOrderAndTellsNoSecret(t *testing.T) {
	list := workload()
	want, err := os.ReadFile("testdata/suggested.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), suggested(t, list)); d != "" {
		t.Errorf("suggestion (-want +got):\n%s", d)
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	if d := cmp.Diff(string(want), suggested(t, list)); d != "" {
		t.Errorf("in another order (-want +got):\n%s", d)
	}
	if strings.Contains(string(want), "hunter2") {
		t.Error("it tells a secret")
	}
}

func TestTheSuggestionAllowsWhatWasSeenAndNothingElse(t *testing.T) {
	list := workload()
	text := strings.Replace(suggested(t, list), "{mode: observe", "{mode: enforce", 1)
	f, err := policy.Parse("suggested.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	e, err := policy.Compile(1, f)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for i := range list {
		o := &list[i]
		what := strings.Join(o.Request.Operation.Effects, " ")
		want := what != "unknown" && what != "drop" && o.Request.Principal.Subject != "repo:*"
		if d := e.Decide(&o.Request); (d.Verdict == policy.Allow) != want {
			t.Errorf("%s of %s as %s: %+v", what, o.Request.Target, o.Request.Principal, d)
		}
	}
	for _, o := range []policy.Observation{
		saw(by(0, "ci", "10.0.3.7:5432", "db.internal"), "postgres", "", "update"),
		saw(by(0, "ci", "10.0.3.8:22", ""), "tcp", "", policy.Connect),
		saw(by(0, "other", "10.0.3.7:5432", "db.internal"), "postgres", "", "select"),
		saw(by(0, "ci", "10.0.3.7:5433", "db.internal"), "postgres", "", "select"),
		asks(by(0, "ci", "10.0.0.53:53", ""), "two.example.org"),
	} {
		if d := e.Decide(&o.Request); d.Verdict != policy.Deny {
			t.Errorf("%s of %s: %+v", o.Request.Operation.Effects, o.Request.Target, d)
		}
	}
}

func TestNothingSeenIsAPolicyToo(t *testing.T) {
	var text strings.Builder
	if err := New(Options{}).Write(&text); err != nil {
		t.Fatal(err)
	}
	if _, err := policy.Parse("p.yaml", []byte(text.String())); err != nil {
		t.Errorf("%v\n%s", err, text.String())
	}
}
