package audit

import (
	"bytes"
	"encoding/json"
	"math"
	"net/netip"
	"reflect"
	"testing"

	"github.com/headgate/headgate/pkg/record"
)

// theirs is what encoding/json makes of a body that has no words of its own.
func theirs(tb testing.TB, body any) string {
	tb.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(body); err != nil {
		tb.Fatal(err)
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

// fill sets every field that it can reach to something that is not zero.
func fill(v reflect.Value, text string, n uint64) {
	if target, ok := v.Addr().Interface().(*netip.AddrPort); ok {
		*target = []netip.AddrPort{
			{}, netip.MustParseAddrPort("192.0.2.1:5432"), netip.MustParseAddrPort("[2001:db8::1]:5432"),
			netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(text), 1), netip.AddrPortFrom(netip.Addr{}, 7),
		}[n%5]
		return
	}
	switch v.Kind() {
	case reflect.Uint32:
		v.SetUint(n % (1 << 32))
	case reflect.Map:
		if n%4 > 0 {
			v.Set(reflect.ValueOf(map[string]string{text: text, "a": text, text + "b": "", "B<": "x"}))
		}
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		v.SetBool(n%2 == 1)
	case reflect.Uint64:
		v.SetUint(n)
	case reflect.Int64:
		v.SetInt(int64(n))
	case reflect.Pointer:
		if n%3 > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), text, n)
		}
	case reflect.Uint8:
		v.SetUint(n % 256)
	case reflect.Slice:
		if n%5 == 0 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), int(n%5)-1, 8))
		for i := range v.Len() {
			fill(v.Index(i), text, n+uint64(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), text, n+uint64(i)*7)
		}
	case reflect.Interface: // facts for conditions, which are not recorded
	default:
		panic("a field of a kind that nobody thought of: " + v.Kind().String())
	}
}

func FuzzEventsAreWrittenAsEncodingJSONWould(f *testing.F) {
	for _, text := range []string{"", "SELECT 1", "a\"b\\c\n\x00\x7f", "é\u2028<&>", "\xff\xfe", "\U0001f600"} {
		for n := range uint64(12) {
			f.Add(text, n)
		}
	}
	f.Add("x", uint64(math.MaxUint64))
	f.Fuzz(func(t *testing.T, text string, n uint64) {
		for _, body := range []record.Appender{&Decision{}, &Result{}, &Frame{}, &SessionOpen{}, &SessionEnd{}} {
			fill(reflect.ValueOf(body).Elem(), text, n)
			if got, want := string(body.AppendJSON(nil)), theirs(t, body); got != want {
				t.Errorf("%T:\n%s\nwant\n%s", body, got, want)
			}
		}
	})
}

func TestPlainTextIsToldFromOtherWhereverItStands(t *testing.T) {
	for n := range 20 {
		for i := range n {
			for c := range 256 {
				text := bytes.Repeat([]byte{'a'}, n)
				text[i] = byte(c)
				want := c >= ' ' && c <= '~' && c != '"' && c != '\\'
				if got := plain(string(text)); got != want {
					t.Fatalf("%q is plain: %v", text, got)
				}
			}
		}
	}
}

func BenchmarkDecision(b *testing.B) {
	e := Decision{Session: "s-1", Op: "s-1-17", Verdict: "allow", Mode: "enforce", Rule: "work", Resource: "shop", Generation: 3}
	e.Operation.Protocol, e.Operation.Verb, e.Operation.Effects = "postgres", "select", []string{"select"}
	e.Operation.Text = "SELECT abalance FROM pgbench_accounts WHERE aid = 12345"
	b.Run("here", func(b *testing.B) {
		var buf []byte
		for b.Loop() {
			buf = e.AppendJSON(buf[:0])
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		var buf bytes.Buffer
		j := json.NewEncoder(&buf)
		for b.Loop() {
			buf.Reset()
			if err := j.Encode(e); err != nil {
				b.Fatal(err)
			}
		}
	})
}
