package datagram

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// messages is a connection of messages: it yields those of in and keeps what is
// written in out.
type messages struct {
	net.Conn
	in, out [][]byte
	fail    map[int]error // by the number of the write
	writes  int
}

func (m *messages) Read(p []byte) (int, error) {
	if len(m.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, m.in[0])
	m.in = m.in[1:]
	return n, nil
}

func (m *messages) Write(p []byte) (int, error) {
	m.writes++
	if err := m.fail[m.writes]; err != nil {
		return 0, err
	}
	m.out = append(m.out, bytes.Clone(p))
	return len(p), nil
}

func framed(list ...[]byte) []byte {
	var all []byte
	for _, m := range list {
		all = append(binary.BigEndian.AppendUint16(all, uint16(len(m))), m...)
	}
	return all
}

var samples = [][]byte{[]byte("one"), {}, []byte("three"), bytes.Repeat([]byte{7}, 3000)}

func TestEveryDatagramIsReadBehindItsLength(t *testing.T) {
	for name, slow := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "one byte": iotest.OneByteReader,
	} {
		got, err := io.ReadAll(slow(NewConn(&messages{in: samples})))
		if err != nil || !bytes.Equal(got, framed(samples...)) {
			t.Errorf("%s: %d bytes (%v), want %d", name, len(got), err, len(framed(samples...)))
		}
	}
}

func TestPiecesBecomeTheMessagesThatTheyWere(t *testing.T) {
	for _, size := range []int{1, 2, 3, 1000, 1 << 20} {
		m := &messages{}
		c := NewConn(m)
		for rest := framed(samples...); len(rest) > 0; {
			piece := rest[:min(size, len(rest))]
			if n, err := c.Write(piece); n != len(piece) || err != nil {
				t.Fatalf("wrote %d of %d: %v", n, len(piece), err)
			}
			rest = rest[len(piece):]
		}
		if diff := cmp.Diff(samples, m.out); diff != "" {
			t.Errorf("in pieces of %d (-want +got):\n%.500s", size, diff)
		}
	}
}

func TestLongestDatagramPasses(t *testing.T) {
	m := &messages{in: [][]byte{bytes.Repeat([]byte{7}, MaxSize)}}
	c := NewConn(m)
	if n, err := io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}); err != nil || n != lengthBytes+MaxSize {
		t.Fatalf("copied %d bytes: %v", n, err)
	}
	if len(m.out) != 1 || len(m.out[0]) != MaxSize {
		t.Errorf("%d datagrams came out", len(m.out))
	}
}

// A message may be lost; what follows must not be cut at the wrong places.
func TestStreamStaysInStepAfterALostMessage(t *testing.T) {
	refused := errors.New("refused")
	m := &messages{fail: map[int]error{2: refused}}
	c := NewConn(m)
	all := framed([]byte("one"), []byte("two"), []byte("three"))
	n, err := c.Write(all)
	if !errors.Is(err, refused) || n != len(framed([]byte("one"), []byte("two"))) {
		t.Fatalf("wrote %d, %v", n, err)
	}
	if _, err := c.Write(all[n:]); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]byte{[]byte("one"), []byte("three")}, m.out); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
}

func FuzzWriteKeepsEveryByteOnce(f *testing.F) {
	f.Add(framed([]byte("one"), nil, []byte("two")), uint8(1))
	f.Add([]byte{0, 5, 'c', 'u', 't'}, uint8(2))
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		m := &messages{}
		c := NewConn(m)
		for rest := stream; len(rest) > 0; {
			n, err := c.Write(rest[:min(int(size)+1, len(rest))])
			if err != nil || n == 0 {
				t.Fatalf("wrote %d: %v", n, err)
			}
			rest = rest[n:]
		}
		if got := append(framed(m.out...), c.partial...); !bytes.Equal(got, stream) {
			t.Errorf("sent and kept %x, want %x", got, stream)
		}
	})
}
