package suggest

import (
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/policy"
)

func TestWhatARuleStoodInTheWayOfIsNotSuggested(t *testing.T) {
	for _, tc := range []struct {
		what, reason       string
		verdict, wouldHave policy.Verdict
		mode               policy.Mode
		suggested          bool
	}{
		{"held", "approval_unavailable", policy.Deny, policy.Deny, policy.Enforce, false},
		{"held while observing", policy.ReasonRule, policy.Allow, policy.Approve, policy.Observe, false},
		{"failed condition", policy.ReasonError, policy.Deny, policy.Deny, policy.Enforce, false},
		{"failed condition while observing", policy.ReasonError, policy.Allow, policy.Deny, policy.Observe, false},
		{"masked", "mask", policy.Deny, policy.Deny, policy.Enforce, false},
		{"a rule that observes, behind a default that allows", policy.ReasonUnmatched, policy.Allow, policy.Deny, policy.Enforce, false},
		{"unmatched", policy.ReasonUnmatched, policy.Deny, policy.Deny, policy.Enforce, true},
		{"unmatched while observing", policy.ReasonUnmatched, policy.Allow, policy.Deny, policy.Observe, true},
		{"allowed", policy.ReasonRule, policy.Allow, policy.Allow, policy.Enforce, true},
	} {
		o := saw(by(0, "ci", "10.0.3.7:5432", ""), "postgres", "", "truncate")
		o.Verdict, o.WouldHave, o.Mode, o.Reason, o.Rule = tc.verdict, tc.wouldHave, tc.mode, tc.reason, "r"
		if text := suggested(t, []policy.Observation{o}); strings.Contains(text, "operations: [truncate]") != tc.suggested {
			t.Errorf("%s: want suggested %v, got\n%s", tc.what, tc.suggested, text)
		}
	}
}

func TestWhatAnAgentChoseCanNotSteerATerminal(t *testing.T) {
	if got := printable("/a\x1b[1m\u009b2J\u202e\n\u2028b é"); got != "/a?[1m?2J???b é" {
		t.Errorf("got %q", got)
	}
}

func TestNamesThatWouldMeanMoreInAPolicyAreNotSuggested(t *testing.T) {
	list := []policy.Observation{
		asks(by(0, "ci", "10.0.0.53:53", ""), "*.example.com"), asks(by(0, "ci", "10.0.0.53:53", ""), `a\032b.example.com`),
		asks(by(0, "ci", "10.0.0.53:53", ""), "fine.example.com"),
		saw(by(0, "ci", "10.0.3.7:5432", "*.example.net"), "postgres", "", "select"),
	}
	spaced := saw(by(0, "ci", "10.0.3.8:5432", ""), "postgres", "", "select")
	spaced.Request.Principal = identity.Principal{Issuer: "people", Subject: "Jane Doe"}
	text := suggested(t, append(list, spaced))
	for _, wrong := range []string{"*.example", "032b", "Jane"} {
		if strings.Contains(text, wrong) {
			t.Errorf("%s is in\n%s", wrong, text)
		}
	}
	if !strings.Contains(text, "fine.example.com") || !strings.Contains(text, "10.0.3.7:5432") {
		t.Errorf("what can be said is not in\n%s", text)
	}
	f, err := policy.Parse("p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := policy.Compile(1, f); err != nil {
		t.Error(err)
	}
}
