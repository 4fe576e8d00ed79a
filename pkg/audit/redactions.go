package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
)

// maxRedactions bounds the argument vectors of which the redacted form is kept,
// and maxRedacted the bytes of one.
const (
	maxRedactions = 256
	maxRedacted   = 4 << 10
)

// redactions remember what was made of argument vectors: a process makes many
// connections, and all its sessions name it and its ancestors. What was not
// redacted is not kept. It may be used concurrently.
type redactions struct {
	redact func([]string) []string

	mu    sync.Mutex
	known map[[sha256.Size]byte][]string
}

// of returns the redacted form of argv, which must not be changed, as argv is not.
func (r *redactions) of(argv []string) []string {
	key, ok := keyOf(argv)
	if !ok {
		return r.redact(slices.Clone(argv))
	}
	r.mu.Lock()
	list, known := r.known[key]
	r.mu.Unlock()
	if known {
		return list
	}
	list = r.redact(slices.Clone(argv))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || len(r.known) >= maxRedactions {
		r.known = map[[sha256.Size]byte][]string{}
	}
	r.known[key] = list
	return list
}

// keyOf returns a hash that no other argument vector has, unless argv is long.
func keyOf(argv []string) (key [sha256.Size]byte, ok bool) {
	b := make([]byte, 0, 512)
	for _, arg := range argv {
		if len(b)+len(arg) > maxRedacted {
			return key, false
		}
		b = binary.AppendUvarint(b, uint64(len(arg)))
		b = append(b, arg...)
	}
	return sha256.Sum256(b), true
}
