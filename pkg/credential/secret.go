// Package credential holds the secrets with which headgate logs in upstream,
// and decides which destination may receive which of them.
//
// A [Secret] cannot be printed. A [Store] reads secrets from where they already
// are (a file, systemd, the environment) and hands one out only for a
// destination that it was bound to: not every place that an agent can reach may
// see every password.
package credential

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
)

const placeholder = "[secret]"

// Secret is a value that must not be printed. Every way of turning it into text
// gives "[secret]": all verbs of fmt, JSON, text and slog. It is immutable and
// safe for concurrent use. The zero Secret is empty.
//
// The bytes sit in a closure, for no printer looks inside one. A pointer does not
// do: fmt cannot call methods on a value in an unexported field, walks over it
// instead, and follows a pointer when the verb does not fit.
type Secret struct{ value func() []byte }

// NewSecret makes a Secret of a copy of value.
func NewSecret(value []byte) Secret {
	b := append([]byte(nil), value...)
	return Secret{value: func() []byte { return b }}
}

// Reveal returns a copy of the secret's bytes. It exists for upstream handshakes
// only: what it returns must go into a handshake message and nowhere else, and
// must not outlive it.
func (s Secret) Reveal() []byte {
	if s.value == nil {
		return nil
	}
	return append([]byte(nil), s.value()...)
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.value == nil || len(s.value()) == 0 }

// Equal reports whether two secrets are the same, and takes as long for those that
// are as for others of that length.
func (s Secret) Equal(other Secret) bool {
	return hmac.Equal(s.Reveal(), other.Reveal())
}

// fingerprintKey makes fingerprints useless outside this process.
var fingerprintKey = func() []byte {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		panic(fmt.Sprintf("read random key: %v", err)) // crypto/rand does not fail
	}
	return key
}()

// Fingerprint returns eight hexadecimal digits that tell whether two secrets of
// this process are the same, and after a rotation whether it took place. It is
// keyed with a value that is drawn when the process starts and never leaves it.
func (s Secret) Fingerprint() string {
	mac := hmac.New(sha256.New, fingerprintKey)
	if s.value != nil {
		mac.Write(s.value()) // never fails, says hash.Hash
	}
	return hex.EncodeToString(mac.Sum(nil)[:4])
}

// String returns "[secret]".
func (Secret) String() string { return placeholder }

// GoString returns "[secret]".
func (Secret) GoString() string { return placeholder }

// Format writes "[secret]", whatever the verb.
func (Secret) Format(f fmt.State, _ rune) {
	// An error here belongs to the writer behind f, and fmt has no use for it.
	_, _ = io.WriteString(f, placeholder)
}

// MarshalJSON returns the JSON string "[secret]".
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + placeholder + `"`), nil }

// MarshalText returns "[secret]".
func (Secret) MarshalText() ([]byte, error) { return []byte(placeholder), nil }

// MarshalBinary returns "[secret]". It is what encoding/gob would call.
func (Secret) MarshalBinary() ([]byte, error) { return []byte(placeholder), nil }

// LogValue returns "[secret]".
func (Secret) LogValue() slog.Value { return slog.StringValue(placeholder) }
