package credential

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const canary = "hunter2-canary"

// leaks reports whether text gives the canary away, as text, hex or a list of bytes.
func leaks(text string) bool {
	return strings.Contains(text, canary) ||
		strings.Contains(strings.ToLower(text), hex.EncodeToString([]byte(canary))) ||
		strings.Contains(text, "104 117 110") || strings.Contains(text, "0x68, 0x75")
}

type holder struct {
	Exported Secret
	Pointer  *Secret
	Map      map[string]Secret
	hidden   Secret
	nested   struct{ deep []Secret }
	any      any
	c        Credential
}

func TestSecretNeverPrinted(t *testing.T) {
	s := NewSecret([]byte(canary))
	h := holder{Exported: s, Pointer: &s, Map: map[string]Secret{"k": s}, hidden: s, any: s, c: Credential{Name: "n", Secret: s}}
	h.nested.deep = []Secret{s}
	values := []any{s, &s, []Secret{s}, map[string]Secret{"k": s}, h, &h, h.c, fmt.Errorf("log in: %v", s), errors.Join(fmt.Errorf("%+v", h)), Credential{Secret: s}}
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%b", "%c", "%U", "%t", "%p", "%10.3s", "%w"} {
			if text := fmt.Sprintf(verb, v); leaks(text) {
				t.Errorf("%s of %T: %s", verb, v, text)
			}
		}
		if b, err := json.Marshal(v); err == nil && leaks(string(b)) {
			t.Errorf("JSON of %T: %s", v, b)
		}
		var buf bytes.Buffer
		for _, handler := range []slog.Handler{slog.NewTextHandler(&buf, nil), slog.NewJSONHandler(&buf, nil)} {
			slog.New(handler).Info("message", "value", v)
		}
		if err := xml.NewEncoder(&buf).Encode(v); err != nil {
			fmt.Fprintln(&buf, err)
		}
		if err := gob.NewEncoder(&buf).Encode(v); err != nil {
			fmt.Fprintln(&buf, err)
		}
		if leaks(buf.String()) {
			t.Errorf("encoders of %T: %s", v, buf.String())
		}
		func() {
			defer func() {
				if text := fmt.Sprint(recover()); leaks(text) {
					t.Errorf("panic with %T: %s", v, text)
				}
			}()
			panic(v)
		}()
	}
	if got := fmt.Sprintf("%v %s %x", s, &s, s); got != "[secret] [secret] [secret]" {
		t.Errorf("got %q", got)
	}
	if b, err := json.Marshal(h.c); err != nil || !strings.Contains(string(b), `"[secret]"`) {
		t.Errorf("JSON of a credential: %s, %v", b, err)
	}
	if leaks(s.Fingerprint()) || len(s.Fingerprint()) != 8 {
		t.Errorf("fingerprint: %s", s.Fingerprint())
	}
}

func TestLeaksNoticesALeak(t *testing.T) {
	for _, text := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprint([]byte(canary)), fmt.Sprintf("%#v", []byte(canary))} {
		if !leaks(text) {
			t.Errorf("%s passes as harmless", text)
		}
	}
}

func TestSecretIsACopyBothWays(t *testing.T) {
	in := []byte(canary)
	s := NewSecret(in)
	in[0] = 'X'
	s.Reveal()[1] = 'X'
	if string(s.Reveal()) != canary {
		t.Errorf("got %q", s.Reveal())
	}
	var zero Secret
	if !zero.IsZero() || s.IsZero() || len(zero.Reveal()) != 0 {
		t.Error("zero secret is not empty, or another one is")
	}
}

func TestFingerprintTellsSecretsApart(t *testing.T) {
	a, b := NewSecret([]byte("a")), NewSecret([]byte("b"))
	if a.Fingerprint() != NewSecret([]byte("a")).Fingerprint() || a.Fingerprint() == b.Fingerprint() {
		t.Error("fingerprints do not follow the secrets")
	}
}

func TestBindingContainsWhatItSaysAndNoMore(t *testing.T) {
	for _, tc := range []struct {
		binding, target string
		want            bool
	}{
		{"10.0.3.7:5432", "10.0.3.7:5432", true},
		{"10.0.3.7:5432", "[::ffff:10.0.3.7]:5432", true},
		{"10.0.3.7:5432", "10.0.3.8:5432", false},
		{"10.0.3.7:5432", "10.0.3.7:5433", false},
		{"10.0.3.0/24:5432", "10.0.3.255:5432", true},
		{"10.0.3.0/24:5432", "10.0.4.0:5432", false},
		{"[2001:db8::1]:5432", "[2001:db8::1]:5432", true},
		{"[2001:db8::1]:5432", "[2001:db8::2]:5432", false},
		{"[2001:db8::/64]:5432", "[2001:db8::ffff]:5432", true},
		{"[2001:db8::/64]:5432", "[2001:db8:0:1::]:5432", false},
		{"[fe80::/10]:22", "[fe80::1%eth0]:22", false},
		{"[2001:db8::/64]:5432", "10.0.3.7:5432", false},
	} {
		b, err := ParseBinding(tc.binding)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.Contains(netip.MustParseAddrPort(tc.target)); got != tc.want {
			t.Errorf("%s contains %s: got %v", tc.binding, tc.target, got)
		}
		if b.String() != tc.binding {
			t.Errorf("%s prints as %s", tc.binding, b)
		}
	}
	if (Binding{}).Contains(netip.AddrPort{}) || (Binding{}).Contains(netip.MustParseAddrPort("10.0.0.1:1")) {
		t.Error("the zero binding contains something")
	}
}

func TestBindingToEverythingIsRefused(t *testing.T) {
	for _, s := range []string{"", ":5432", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:*", "*:5432", "0.0.0.0/0:5432", "[::/0]:5432",
		"db.internal:5432", "2001:db8::1:5432", "[10.0.0.1]:5432", "[fe80::1%eth0]:22", "10.0.3.7/24:5432", "[::ffff:10.0.0.1]:5432"} {
		if b, err := ParseBinding(s); err == nil {
			t.Errorf("%q was accepted as %s", s, b)
		}
	}
}

func writeSecret(tb testing.TB, path, value string, mode os.FileMode) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		tb.Fatal(err)
	}
}

func mustStore(tb testing.TB, env map[string]string, specs ...Spec) *Store {
	tb.Helper()
	s, err := newStore(specs, sources{env: func(k string) (string, bool) { v, ok := env[k]; return v, ok }})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

var target = netip.MustParseAddrPort("10.0.3.7:5432")

func TestStoreHandsOutSecretsFromEverySource(t *testing.T) {
	dir := t.TempDir()
	writeSecret(t, filepath.Join(dir, "pw"), canary+"\n", 0o600)
	hosts := []string{"10.0.3.0/24:5432"}
	s := mustStore(t, map[string]string{"PW": canary, "CREDENTIALS_DIRECTORY": dir},
		Spec{Name: "f", Username: "app", From: "file:" + filepath.Join(dir, "pw"), Hosts: hosts},
		Spec{Name: "e", From: "env:PW", Hosts: hosts},
		Spec{Name: "s", From: "systemd:pw", Hosts: hosts},
	)
	for _, name := range s.Names() {
		c, err := s.For(t.Context(), name, target)
		if err != nil || string(c.Secret.Reveal()) != canary {
			t.Errorf("%s: got %q, %v", name, c.Secret.Reveal(), err)
		}
		if err := s.Check(name); err != nil {
			t.Errorf("check %s: %v", name, err)
		}
	}
	c, err := s.For(t.Context(), "f", target)
	if err != nil || c.Name != "f" || c.Username != "app" || len(c.Hosts) != 1 {
		t.Errorf("got %+v, %v", c, err)
	}
	if diff := cmp.Diff([]string{"e", "f", "s"}, s.Names()); diff != "" {
		t.Error(diff)
	}
}

func TestStoreRefusesADestinationThatIsNotBound(t *testing.T) {
	s := mustStore(t, map[string]string{"PW": canary},
		Spec{Name: "db", From: "env:PW", Hosts: []string{"10.0.3.0/24:5432"}},
		Spec{Name: "unbound", From: "env:PW"},
	)
	for name, target := range map[string]string{"db": "10.0.4.1:5432", "unbound": "10.0.3.7:5432"} {
		c, err := s.For(t.Context(), name, netip.MustParseAddrPort(target))
		if !errors.Is(err, ErrNotBound) || !c.Secret.IsZero() {
			t.Errorf("%s for %s: got %v, %v", name, target, c, err)
		}
	}
	if _, err := s.For(t.Context(), "db", netip.AddrPort{}); !errors.Is(err, ErrNotBound) {
		t.Errorf("zero target: got %v", err)
	}
}

func TestZeroValueDenies(t *testing.T) {
	for _, s := range []*Store{nil, {}} {
		if _, err := s.For(t.Context(), "db", target); !errors.Is(err, ErrUnknown) {
			t.Errorf("got %v, want ErrUnknown", err)
		}
		if err := s.Check("db"); !errors.Is(err, ErrUnknown) {
			t.Errorf("check: got %v, want ErrUnknown", err)
		}
		if len(s.Names()) != 0 {
			t.Error("an empty store has names")
		}
	}
}

func TestStoreFollowsARotatedFileAndForgetsAWithdrawnOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pw")
	s := mustStore(t, nil, Spec{Name: "f", From: "file:" + path, Hosts: []string{"10.0.3.7:5432"}})
	for _, want := range []string{"one", "two", "six"} {
		writeSecret(t, path, want, 0o640)
		c, err := s.For(t.Context(), "f", target)
		if err != nil || string(c.Secret.Reveal()) != want {
			t.Errorf("got %q, %v, want %q", c.Secret.Reveal(), err, want)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if c, err := s.For(t.Context(), "f", target); !errors.Is(err, os.ErrNotExist) || !c.Secret.IsZero() {
		t.Errorf("after removal: got %v, %v", c, err)
	}
}

func TestStoreRefusesFilesThatAreNotSafe(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	writeSecret(t, path("world"), canary, 0o604)
	writeSecret(t, path("empty"), "\n", 0o600)
	writeSecret(t, path("long"), canary+strings.Repeat("x", maxSecret), 0o600)
	if err := syscall.Mkfifo(path("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"world", "empty", "long", "fifo", "missing", "."} {
		s := mustStore(t, nil, Spec{Name: "f", From: "file:" + path(name), Hosts: []string{"10.0.3.7:5432"}})
		c, err := s.For(t.Context(), "f", target)
		if err == nil || !c.Secret.IsZero() {
			t.Errorf("%s: the secret was handed out", name)
		}
		if err != nil && leaks(err.Error()) {
			t.Errorf("%s: the error tells the secret: %v", name, err)
		}
	}
	writeSecret(t, path("exact"), strings.Repeat("x", maxSecret), 0o600)
	s := mustStore(t, nil, Spec{Name: "f", From: "file:" + path("exact")})
	if err := s.Check("f"); err != nil {
		t.Errorf("a secret of the largest size: %v", err)
	}
}

func TestNewRefusesBadSpecsWithoutRepeatingThem(t *testing.T) {
	for _, spec := range []Spec{
		{From: "env:X"},
		{Name: "n"},
		{Name: "n", From: canary},
		{Name: "n", From: "plain:" + canary},
		{Name: "n", From: "file:relative"},
		{Name: "n", From: "systemd:../x"},
		{Name: "n", From: "systemd:x"}, // no directory
		{Name: "n", From: "env:X", Hosts: []string{"*:5432"}},
		{Name: "n", From: "env:X", Certificate: "/c"},
		{Name: "n", From: "env:X", Key: "env:K"},
		{Name: "n", Certificate: "/c", Key: canary},
		{Name: "n", From: "env:X", Methods: []string{"gss"}},
		{Name: "n", Username: "u", From: "rds-iam:eu-central-1"}, // nobody makes tokens
	} {
		_, err := newStore([]Spec{spec}, sources{env: func(string) (string, bool) { return "", false }})
		if err == nil {
			t.Errorf("%+v was accepted", spec)
		} else if leaks(err.Error()) {
			t.Errorf("the error repeats what may be a secret: %v", err)
		}
	}
	if _, err := New([]Spec{{Name: "n", From: "env:X"}, {Name: "n", From: "env:Y"}}); err == nil {
		t.Error("two credentials of one name were accepted")
	}
}

func FuzzParseBinding(f *testing.F) {
	for _, s := range []string{"10.0.0.1:1", "10.0.0.0/8:1", "[::1]:1", "[2001:db8::/32]:65535", ":", "[]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseBinding(s)
		if err != nil {
			return
		}
		again, err := ParseBinding(b.String())
		if err != nil || again != b {
			t.Fatalf("%q prints as %q, which reads as %v, %v", s, b, again, err)
		}
	})
}
