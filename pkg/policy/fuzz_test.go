package policy

import (
	"errors"
	"os"
	"testing"
)

// FuzzParse checks that no text crashes the parser, that errors say where, and
// that a policy that compiles denies an empty request unless it says otherwise.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"testdata/findings.yaml", "testdata/kinds.yaml", "../../policies/postgres-guard.yaml", "../../policies/pii-masking.yaml"} {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("version: 1\n" + resources))
	f.Add([]byte(kinds))
	f.Add([]byte(named))
	f.Add([]byte(asking))
	f.Add([]byte("version: 1\na: &a [*a]\n---\n"))
	f.Add([]byte("version: |\n  1\nrules: [{name: 'a', effect: \"deny\", resources: ['*'],}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("p.yaml", data)
		if err != nil {
			var list Errors
			if !errors.As(err, &list) || len(list) == 0 || file != nil {
				t.Fatalf("error %T without findings, or with a file", err)
			}
			for _, one := range list {
				if one.File != "p.yaml" || one.Line < 1 || one.Column < 1 || one.Message == "" {
					t.Fatalf("finding without a place: %+v", one)
				}
			}
			return
		}
		e, err := Compile(1, file)
		if err != nil {
			return
		}
		for _, d := range e.Destinations() {
			if d.Verdict == Direct && file.syntax.Defaults.Mode == "" && file.syntax.Defaults.Unmatched == "" && len(file.syntax.Rules) == 0 {
				t.Fatalf("without a rule: %+v", d)
			}
		}
		for _, s := range e.UnixSockets() {
			if s.Verdict == Proxied || !validSocketPattern(s.Pattern) {
				t.Fatalf("socket %+v", s)
			}
		}
		e.Overlaps()
		if d := e.Decide(&Request{}); d.Verdict != Deny && file.syntax.Defaults == (defaultsSyntax{}) {
			t.Fatalf("an empty request: %+v", d)
		}
	})
}
