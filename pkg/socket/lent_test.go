package socket

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"
)

// shelf lends one buffer, and says when it was asked for.
type shelf struct {
	t      *testing.T
	bytes  [8]byte
	out    bool
	lent   chan struct{}
	gotten chan struct{}
}

func newShelf(t *testing.T) *shelf {
	return &shelf{t: t, lent: make(chan struct{}, 100), gotten: make(chan struct{}, 100)}
}

func (s *shelf) Lend() []byte {
	s.out = true
	s.lent <- struct{}{}
	return s.bytes[:]
}

func (s *shelf) Return() {
	if !s.out {
		s.t.Error("given back without having been lent")
	}
	s.out = false
	s.gotten <- struct{}{}
}

func TestNothingIsLentWhileAReadWaits(t *testing.T) {
	near, far := pair(t)
	c, s := wrap(t, near), newShelf(t)
	type result struct {
		n   int
		err error
	}
	read := make(chan result, 1)
	go func() {
		n, err := c.ReadLent(s)
		read <- result{n, err}
	}()
	<-s.gotten // it waits, and the buffer is back
	if _, err := far.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if r := <-read; r.err != nil || string(s.bytes[:r.n]) != "hello" || !s.out {
		t.Errorf("got %q, %v; lent: %v", s.bytes[:r.n], r.err, s.out)
	}
}

func TestALentReadEndsAsARead(t *testing.T) {
	near, far := pair(t)
	c, s := wrap(t, near), newShelf(t)
	if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadLent(s); !errors.Is(err, os.ErrDeadlineExceeded) || s.out {
		t.Errorf("got %v; lent: %v", err, s.out)
	}
	if err := errors.Join(c.SetReadDeadline(time.Time{}), far.CloseWrite()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadLent(s); err != io.EOF {
		t.Errorf("got %v", err)
	}
}

func TestReadsOfBothKindsMayFollowEachOther(t *testing.T) {
	near, far := pair(t)
	c, s := wrap(t, near), newShelf(t)
	if _, err := far.Write([]byte("0123456789ab")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.ReadLent(s); err != nil || string(s.bytes[:n]) != "01234567" {
		t.Fatalf("got %q, %v", s.bytes[:n], err)
	}
	own := make([]byte, 2)
	if n, err := c.Read(own); err != nil || string(own[:n]) != "89" {
		t.Fatalf("got %q, %v", own[:n], err)
	}
	if n, err := c.ReadLent(s); err != nil || string(s.bytes[:n]) != "ab" {
		t.Fatalf("got %q, %v", s.bytes[:n], err)
	}
}
