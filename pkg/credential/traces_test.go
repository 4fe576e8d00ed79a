package credential

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

const traced = `s3cret\with "quotes" & 'more' <é>/+`

func TestASecretIsFoundInEveryFormThatAServerWrites(t *testing.T) {
	for _, secret := range []string{traced, canary, "12345678", strings.Repeat("long secret ", 50)} {
		traces := NewTraces(NewSecret([]byte(secret)))
		asJSON, err := json.Marshal(secret)
		if err != nil {
			t.Fatal(err)
		}
		forms := map[string]string{
			"raw":        secret,
			"hex":        hex.EncodeToString([]byte(secret)),
			"upper hex":  strings.ToUpper(hex.EncodeToString([]byte(secret))),
			"upper case": asciiUpper(secret),
			"base64":     base64.StdEncoding.EncodeToString([]byte(secret)),
			"url base64": base64.URLEncoding.EncodeToString([]byte(secret)),
			"behind 1":   base64.StdEncoding.EncodeToString([]byte("x" + secret + "y")),
			"behind 2":   base64.RawURLEncoding.EncodeToString([]byte("xy" + secret + "yz")),
			"behind 100": base64.StdEncoding.EncodeToString([]byte(strings.Repeat("z", 100) + secret + "y")),
			"url":        url.QueryEscape(secret),
			"path":       url.PathEscape(secret),
			"JSON":       string(asJSON),
			"SQL":        "'" + strings.ReplaceAll(secret, "'", "''") + "'",
			"identifier": `"` + strings.ReplaceAll(secret, `"`, `""`) + `"`,
			"array":      `{"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(secret) + `"}`,
			"record":     `("` + strings.NewReplacer(`\`, `\\`, `"`, `""`).Replace(secret) + `")`,
			"E''":        `E'` + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(secret) + `'`,
			"COPY":       "1\t" + strings.ReplaceAll(secret, `\`, `\\`) + "\n",
		}
		for name, form := range forms {
			for _, around := range []string{"%s", "%s behind", "before %s", "some words before %s and behind"} {
				if strings.Contains(name, "base64") && strings.HasPrefix(around, "s") {
					around = "\n" + around
				}
				text := []byte(fmt.Sprintf(around, form))
				if !traces.Find(text) {
					t.Errorf("%s is not found in %q", name, text)
				}
				blanked := bytes.Clone(text)
				if traces.Blank(blanked) == 0 || len(blanked) != len(text) || traces.Find(blanked) {
					t.Errorf("%s: blanked is %q", name, blanked)
				}
			}
		}
	}
}

// asciiUpper is what upper() makes of a text in the C locale.
func asciiUpper(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

func TestSeveralSecretsAreFoundEachWhereItIs(t *testing.T) {
	traces := NewTraces(NewSecret([]byte("first-secret")), Secret{}, NewSecret([]byte("second-secret-of-another-length")))
	text := []byte("first-secretsecond-secret-of-another-length, FIRST-SECRET and first-secre")
	if hits := traces.Blank(text); hits != 3 || string(text) != "*******************************************, ************ and first-secre" {
		t.Errorf("%d hits: %s", hits, text)
	}
}

func TestAShortSecretIsFoundAsAWholeValue(t *testing.T) {
	traces := NewTraces(NewSecret([]byte("app")))
	for _, value := range []string{"app", "APP", "617070", `\x617070`, "YXBw"} {
		if !traces.Find([]byte(value)) {
			t.Errorf("%s is not found", value)
		}
	}
	text := []byte("app")
	if traces.Find(nil) || traces.Find([]byte("a")) || traces.Find([]byte("application")) || traces.Find([]byte("an app")) || traces.Blank(text) != 1 || string(text) != "***" {
		t.Errorf("found inside of other text, or not blanked: %s", text)
	}
}

func TestNothingIsFoundWithoutASecret(t *testing.T) {
	var none *Traces
	if NewTraces() != nil || NewTraces(Secret{}) != nil || none.Find([]byte("x")) || none.Find(nil) || none.Blank([]byte("x")) != 0 {
		t.Error("something is found")
	}
	if NewTraces(NewSecret([]byte(canary))).Find(nil) {
		t.Error("a secret is found in nothing")
	}
}

func TestTracesAreNotPrinted(t *testing.T) {
	traces := NewTraces(NewSecret([]byte(canary)))
	for _, verb := range []string{"%v", "%+v", "%s", "%q", "%x", "%d", "%#v"} {
		if text := fmt.Sprintf(verb, traces) + fmt.Sprintf(verb, struct{ t *Traces }{traces}); leaks(text) {
			t.Errorf("%s prints it", verb)
		}
	}
}

func FuzzTraces(f *testing.F) {
	f.Add([]byte("0123456789"), []byte("before"), []byte("behind"))
	f.Add([]byte(traced), []byte(nil), []byte{0})
	f.Fuzz(func(t *testing.T, secret, before, behind []byte) {
		traces := NewTraces(NewSecret(secret))
		if len(secret) == 0 {
			return
		}
		text := secret
		if len(secret) >= minTrace {
			text = bytes.Join([][]byte{before, secret, behind}, nil)
		}
		if !traces.Find(text) || !traces.FindString(string(text)) {
			t.Fatalf("%q is not found in %q", secret, text)
		}
		blanked := bytes.Clone(text)
		traces.Blank(blanked)
		for i, c := range text {
			if blanked[i] != c && (blanked[i] != '*' || c == 0) {
				t.Fatalf("%q became %q", text, blanked)
			}
		}
	})
}

func BenchmarkTraces(b *testing.B) {
	traces := NewTraces(NewSecret([]byte("agent-password-93XvTz")))
	text := []byte(strings.Repeat("Ada Lovelace\tada@example.com\t4111 1111 1111 1111\t123-45-6789\t12.50\n", 1000))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if traces.Find(text) {
			b.Fatal("found")
		}
	}
}
