package mask

import (
	"bytes"
	"testing"
)

func FuzzKeepLast4FastEqualsSlow(f *testing.F) {
	for _, s := range []string{"", "a", "4111 1111 1111 1111", "*-*", "user@example.com", "Zoë 12345", "\xff\xfe1234567", "....", "12"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		fast, slow := keepLast4([]byte("x"), value), keepLast4Slowly([]byte("x"), value)
		if !bytes.Equal(fast, slow) {
			t.Errorf("%q: fast %q, slow %q", value, fast, slow)
		}
	})
}
