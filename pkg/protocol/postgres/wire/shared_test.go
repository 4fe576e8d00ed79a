package wire

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/headgate/headgate/pkg/socket"
)

// uneven is a source of which each read gets another number of bytes.
type uneven struct {
	random *rand.Rand
	data   []byte
}

func (u *uneven) Read(p []byte) (int, error) {
	if len(u.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1+u.random.IntN(1<<u.random.IntN(18)))], u.data)
	u.data = u.data[n:]
	return n, nil
}

// hesitant is one that wakes without a reason at times.
type hesitant struct{ *uneven }

func (h hesitant) ReadLent(l socket.Lender) (int, error) {
	for h.random.IntN(2) == 0 {
		l.Lend()
		l.Return()
	}
	return h.Read(l.Lend())
}

// neighbour is another session, which takes buffers and writes all over them.
type neighbour struct {
	t      *testing.T
	blocks []*block
}

func (n *neighbour) disturb(size int) {
	b := take(size)
	if len(bytes.Trim(b.bytes, "\x00")) > 0 {
		n.t.Fatal("a buffer holds what another session has said")
	}
	for i := range b.bytes {
		b.bytes[i] = 0xee
	}
	if n.blocks = append(n.blocks, b); len(n.blocks) > 3 {
		n.blocks[0].giveBack(len(n.blocks[0].bytes))
		n.blocks = n.blocks[1:]
	}
}

func TestSessionsThatShareBuffersSeeNothingOfEachOther(t *testing.T) {
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 0))
		var messages [][]byte
		for range 30 {
			m := message('D', random.IntN(1<<random.IntN(19)))
			for i := range m[headerSize:] {
				m[headerSize+i] = byte(random.Uint32())
			}
			messages = append(messages, m)
		}
		var source io.Reader = &uneven{random, bytes.Join(messages, nil)}
		if seed%2 == 0 {
			source = hesitant{source.(*uneven)}
		}
		r, other := NewReader(source, nil), neighbour{t: t}
		var sent, want bytes.Buffer
		w := NewWriter(&sent)
		for i, m := range messages {
			other.disturb(random.IntN(BufferSize))
			if _, length, err := r.Next(); err != nil || length != len(m)-headerSize {
				t.Fatalf("seed %d, message %d: got %d bytes, %v", seed, i, length, err)
			}
			want.Write(m)
			if random.IntN(4) == 0 {
				if _, err := r.CopyTo(w); err != nil {
					t.Fatal(err)
				}
				continue
			}
			raw, err := r.Raw(len(m))
			other.disturb(random.IntN(BufferSize))
			if err != nil || !bytes.Equal(raw, m) {
				t.Fatalf("seed %d, message %d: got others, %v", seed, i, err)
			}
			if _, err := w.Write(raw); err != nil {
				t.Fatal(err)
			}
			clear(raw) // it may be changed
			if random.IntN(3) == 0 {
				if err := w.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Flush(); err != nil || !bytes.Equal(sent.Bytes(), want.Bytes()) {
			t.Errorf("seed %d: %d bytes arrived of %d, or others, %v", seed, sent.Len(), want.Len(), err)
		}
	}
}
