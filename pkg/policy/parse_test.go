package policy

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// mustParse returns the parsed file or ends the test.
func mustParse(tb testing.TB, text string) *File {
	tb.Helper()
	f, err := Parse("p.yaml", []byte(text))
	if err != nil {
		tb.Fatalf("parse:\n%v", err)
	}
	return f
}

func TestEveryFindingOfAFileIsReportedWithItsPlace(t *testing.T) {
	for _, name := range []string{"findings", "kinds"} {
		t.Run(name, func(t *testing.T) { findings(t, "testdata/"+name) })
	}
}

func findings(t *testing.T, name string) {
	data, err := os.ReadFile(name + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(name + ".golden")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Parse("p.yaml", data)
	if err == nil {
		t.Fatal("parsed")
	}
	var list Errors
	if !errors.As(err, &list) {
		t.Fatalf("error is a %T", err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(err.Error()+"\n", "\n")); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestWhatIsNotPlainYAMLIsAnError(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"empty", "", "p.yaml:1:1: the file is empty"},
		{"only a comment", "# nothing\n", "p.yaml:1:1: the file is empty"},
		{"scalar", "version", "p.yaml:1:1: the file: want a mapping, found a string"},
		{"list", "- version: 1\n", "p.yaml:1:1: the file: want a mapping, found a list"},
		{"second document", "version: 1\n---\nversion: 1\n", "p.yaml:3:1: a second document: one file holds one"},
		{"document after its end", "version: 1\n...\nmode: observe\n", "p.yaml:3:1: a second document: one file holds one"},
		{"anchor", "version: &v 1\n", "p.yaml:1:10: anchors and aliases are not understood"},
		{"alias bomb", "version: 1\nrules: [*a,*a]\n", "p.yaml:2:9: anchors and aliases are not understood"},
		{"merge key", "version: 1\n<<: {mode: observe}\n", "p.yaml:2:1: merge keys are not understood"},
		{"tag", "version: !!int 1\n", "p.yaml:1:10: tags are not understood"},
		{"directive", "%YAML 1.1\n---\nversion: 1\n", "p.yaml:1:1: directives are not understood"},
		{"complex key", "? version\n: 1\n", "p.yaml:1:1: complex keys are not understood"},
		{"duplicate key", "version: 1\nmode: observe\n\"mode\": enforce\n", `p.yaml:3:1: duplicate key "mode", first at line 2`},
		{"number as key", "version: 1\n1: 2\n", "p.yaml:2:1: the file: a key must be a word, found a number"},
		{"null", "version: 1\nrules:\n", "p.yaml:2:8: rules has no value: leave it out or give one"},
		{"tab", "version: 1\n\tmode: observe\n", "p.yaml:2:1: found character '\t' that cannot start any token"},
		{"open bracket", "version: 1\nrules: [\n", "p.yaml:2:8: sequence end token ']' not found"},
		{"not UTF-8", "version: 1\nmode: \"a\xff\"\n", "p.yaml:2:9: not UTF-8"},
		{"control character", "version: 1\nmode: \x00\n", "p.yaml:2:7: control character U+0000"},
		{"reversed text", "version: 1 # \u202e\n", "p.yaml:1:14: control character U+202E"},
		{"deep flow", "a: " + strings.Repeat("[", 1<<19), "p.yaml:1:36: nested too deeply"},
		{"deep block", strings.Repeat("- ", 1<<18) + "a", "p.yaml:1:201: nested too deeply"},
		{"many keys", strings.Repeat("a: 1\n", 1001), "p.yaml:1001:2: more than 1000 keys in one mapping"},
		{"many keys below a list", "rules:\n  - b: 1\n" + strings.Repeat("    a: 1\n", 1000), "p.yaml:1002:6: more than 1000 keys in one mapping"},
		{"many keys in braces", "a: {" + strings.Repeat("a: 1,", 1001) + "}", "p.yaml:1:5006: more than 1000 keys in one mapping"},
		{"too large", "version: 1\n#" + strings.Repeat("x", 1<<20), "p.yaml:1:1: larger than 1048576 bytes"},
		{"float version", "version: 1.0\n", "p.yaml:1:10: version: want an integer, found a number"},
		{"string for list", "version: 1\nrules: none\n", "p.yaml:2:8: rules: want a list, found a string"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f, err := Parse("p.yaml", []byte(test.text))
			if err == nil || f != nil {
				t.Fatalf("parsed: %v", err)
			}
			if got := err.Error(); got != test.want {
				t.Errorf("error\n got %s\nwant %s", got, test.want)
			}
		})
	}
}
