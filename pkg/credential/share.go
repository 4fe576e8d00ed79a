package credential

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"runtime"
	"sync"
	"weak"
)

// Shared makes [Traces], and gives the same ones to all who look for the same
// secrets at the same time: sessions that logged in with one credential need its
// tables once. It keeps none that nobody uses. The zero Shared is ready to use,
// and a nil one shares nothing. It is safe for concurrent use.
type Shared struct {
	mu    sync.Mutex
	known map[traceKey]weak.Pointer[Traces]
}

// traceKey stands for a list of secrets: a keyed hash, of which there are no two
// that are equal by chance, and which tells nothing about them.
type traceKey [sha256.Size]byte

func keyOf(secrets []Secret) (key traceKey) {
	mac := hmac.New(sha256.New, fingerprintKey)
	var length [8]byte
	for _, s := range secrets {
		value := s.Reveal()
		binary.BigEndian.PutUint64(length[:], uint64(len(value)))
		mac.Write(length[:]) // never fails, says hash.Hash
		mac.Write(value)
	}
	mac.Sum(key[:0])
	return key
}

// Traces returns what [NewTraces] does.
func (s *Shared) Traces(secrets ...Secret) *Traces {
	if s == nil {
		return NewTraces(secrets...)
	}
	key := keyOf(secrets)
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.known[key].Value(); t != nil {
		return t
	}
	t := NewTraces(secrets...)
	if t == nil {
		return nil
	}
	if s.known == nil {
		s.known = make(map[traceKey]weak.Pointer[Traces])
	}
	s.known[key] = weak.Make(t)
	runtime.AddCleanup(t, s.forget, key)
	return t
}

// forget drops what nobody uses any more, unless it was made anew.
func (s *Shared) forget(key traceKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[key].Value() == nil {
		delete(s.known, key)
	}
}
