package bypass

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"github.com/goccy/go-yaml"
)

const testdata = "../../../../testdata/postgres/bypass"

// attack is one case; the README beside the cases describes its fields.
type attack struct {
	Name    string            `yaml:"name"`
	Policy  string            `yaml:"policy"`
	Masks   string            `yaml:"masks"`
	Setup   string            `yaml:"setup"`
	Startup map[string]string `yaml:"startup"`
	Steps   []step            `yaml:"steps"`

	Code   string   `yaml:"code"`
	Shows  []string `yaml:"shows"`
	Never  []string `yaml:"never"`
	Effect string   `yaml:"effect"`
	Twin   bool     `yaml:"twin"`
	// Documented says why the case is known to get through.
	Documented string `yaml:"documented"`

	Harmless         bool   `yaml:"harmless"`
	WorksWithoutGate *bool  `yaml:"works_without_gate"`
	Because          string `yaml:"because"`

	class string
}

// step is what is sent at once. A step that is only a text is sent as a Query,
// and in another run as an extended query whose result is binary.
type step struct {
	Text    string
	Send    []message `yaml:"send"`
	Session string    `yaml:"session"`
	Ready   *int      `yaml:"ready"`
	Times   int       `yaml:"times"`
	Cancel  bool      `yaml:"cancel"`
}

// message is one message of the protocol: the first field that is set says which.
type message struct {
	Query    *string  `yaml:"query"`
	Parse    *string  `yaml:"parse"`
	Bind     *string  `yaml:"bind"`
	Describe string   `yaml:"describe"`
	Close    string   `yaml:"close"`
	Execute  *string  `yaml:"execute"`
	Data     *string  `yaml:"data"`
	Fail     *string  `yaml:"fail"`
	Call     uint32   `yaml:"call"`
	Raw      string   `yaml:"raw"`
	Do       string   `yaml:"do"` // sync, flush, done or terminate
	Name     string   `yaml:"name"`
	Portal   string   `yaml:"portal"`
	Formats  []int16  `yaml:"formats"`
	Args     []string `yaml:"args"`
	Rows     uint32   `yaml:"rows"`
}

// UnmarshalYAML takes a text, one message, a list of messages, or a mapping.
func (s *step) UnmarshalYAML(decode func(any) error) error {
	var text string
	if decode(&text) == nil {
		s.Text = text
		return nil
	}
	if decode(&s.Send) == nil {
		return nil
	}
	var one message
	if decode(&one) == nil {
		s.Send = []message{one}
		return nil
	}
	type plain step
	s.Send = nil
	return decode((*plain)(s))
}

func strict(data []byte, into any) error {
	return yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(into)
}

// attacks reads all cases, in the order of their files.
func attacks(tb testing.TB) []*attack {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(testdata, "cases", "*.yaml"))
	if err != nil {
		tb.Fatal(err)
	}
	var all []*attack
	names := map[string]bool{}
	for _, path := range files {
		var list []*attack
		if err := strict([]byte(read(tb, path)), &list); err != nil {
			tb.Fatalf("%s: %v", path, err)
		}
		for _, a := range list {
			a.class = strings.TrimSuffix(filepath.Base(path), ".yaml")
			if err := a.check(); err != nil {
				tb.Fatalf("%s: %q: %v", path, a.Name, err)
			}
			if names[a.Name] {
				tb.Fatalf("%s: two cases are named %q", path, a.Name)
			}
			names[a.Name] = true
		}
		all = append(all, list...)
	}
	return all
}

func (a *attack) check() error {
	if a.Policy == "" {
		a.Policy = "open"
	}
	if a.Masks == "" {
		a.Masks = "masks"
	}
	switch {
	case a.Name == "" || len(a.Steps) == 0:
		return fmt.Errorf("a case has a name and steps")
	case a.Effect != "" && a.Effect != "allowed":
		return fmt.Errorf("effect is %q", a.Effect)
	case a.WorksWithoutGate != nil && (*a.WorksWithoutGate || a.Because == ""):
		return fmt.Errorf("works_without_gate is false, and because says why, or both are left out")
	case a.Harmless && len(a.Shows) == 0 && a.Code == "":
		return fmt.Errorf("a harmless case says what it shows, or its code")
	}
	return nil
}

// modes are the ways to send the steps that are only a text.
func (a *attack) modes() []string {
	for _, s := range a.Steps {
		if s.Send == nil && !s.Cancel {
			return []string{"simple", "binary"}
		}
	}
	return []string{"as written"}
}

// fill replaces what stands between << and >> in a text.
func fill(text string, funcs template.FuncMap) (string, error) {
	if !strings.Contains(text, "<<") {
		return text, nil
	}
	t, err := template.New("").Delims("<<", ">>").Funcs(funcs).Parse(text)
	if err != nil {
		return "", fmt.Errorf("read template: %w", err)
	}
	var out strings.Builder
	if err := t.Execute(&out, nil); err != nil {
		return "", fmt.Errorf("fill template: %w", err)
	}
	return out.String(), nil
}

func read(tb testing.TB, path string) string {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}
