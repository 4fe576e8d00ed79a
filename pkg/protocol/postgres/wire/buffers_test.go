package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/headgate/headgate/pkg/socket"

	"github.com/headgate/headgate/pkg/internal/testenv"
)

// patient is a source that has nothing for a moment before each read.
type patient struct {
	io.Reader
	waits func()
}

func (p *patient) ReadLent(l socket.Lender) (int, error) {
	l.Lend()
	l.Return()
	p.waits()
	return p.Read(l.Lend())
}

func message(typ byte, body int) []byte {
	out, mark := Begin(nil, typ)
	return Finish(append(out, bytes.Repeat([]byte{'x'}, body)...), mark)
}

func TestAReaderThatWaitsHoldsNoBuffer(t *testing.T) {
	var r *Reader
	waited := 0
	source := &patient{waits: func() {
		waited++
		if r.hold != nil || r.buf != nil {
			t.Error("a buffer is held")
		}
	}}
	r = NewReader(source, nil)
	for _, size := range []int{0, 1, smallBuffer, BufferSize - headerSize, BufferSize, 3} {
		want := message('D', size)
		source.Reader = bytes.NewReader(want)
		if _, length, err := r.Next(); err != nil || length != size {
			t.Fatalf("%d bytes: got %d, %v", size, length, err)
		}
		if raw, err := r.Raw(size); err != nil || !bytes.Equal(raw, want) {
			t.Fatalf("%d bytes: got %d, %v", size, len(raw), err)
		}
	}
	if waited != 6 {
		t.Errorf("waited %d times", waited)
	}
}

// plain is a source that stands for one that cannot wait without a buffer.
type plain struct{ io.Reader }

func (plain) ReadLent(socket.Lender) (int, error) { return 0, errors.ErrUnsupported }

func TestAReaderOfAnotherSourceKeepsASmallBuffer(t *testing.T) {
	source := &bytes.Buffer{}
	r := NewReader(plain{source}, nil)
	for _, size := range []int{2, BufferSize / 2, 3} {
		source.Write(message('D', size))
		if _, _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Raw(size); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.buf) != smallBuffer {
		t.Errorf("it holds %d bytes", len(r.buf))
	}
}

func TestAFlushedWriterHoldsNoBuffer(t *testing.T) {
	w := NewWriter(io.Discard)
	for _, size := range []int{1, smallBuffer + 1, flushAt, flushAt + 1, 2} {
		if _, err := w.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil || w.hold != nil || w.buf != nil {
			t.Errorf("%d bytes: %v, or a buffer is held", size, err)
		}
	}
}

func TestWhatWasSaidIsGoneFromABufferThatIsGivenBack(t *testing.T) {
	var kept [][]byte // what is in the pools is nobody's, and may be looked at here
	w := NewWriter(io.Discard)
	for _, size := range []int{10, smallBuffer, smallBuffer + 1, flushAt} {
		if _, err := w.Write(bytes.Repeat([]byte("s"), size)); err != nil {
			t.Fatal(err)
		}
		if w.hold != nil {
			kept = append(kept, w.hold.bytes)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	r := NewReader(&patient{Reader: bytes.NewReader(message('D', 40_000)), waits: func() {}}, nil)
	if _, _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	kept = append(kept, r.buf)
	if _, err := r.Raw(40_000); err != nil {
		t.Fatal(err)
	}
	kept = append(kept, r.buf)
	if _, _, err := r.Next(); err != io.EOF {
		t.Fatal(err)
	}
	r.Return()
	for _, b := range kept {
		if bytes.IndexFunc(b, func(c rune) bool { return c != 0 }) >= 0 {
			t.Errorf("a buffer of %d bytes still holds what was said", len(b))
		}
	}
}

func TestMessagesCostNoAllocation(t *testing.T) {
	if testenv.Race {
		t.Skip("with the race detector pools forget some of what they are given")
	}
	stream := message('D', 100)
	source := &patient{waits: func() {}}
	reader := bytes.NewReader(nil)
	source.Reader = reader
	r, w := NewReader(source, nil), NewWriter(io.Discard)
	allocations := testing.AllocsPerRun(1000, func() {
		reader.Reset(stream)
		if _, length, err := r.Next(); err != nil || length != 100 {
			t.Fatal(err)
		}
		raw, err := r.Raw(100)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(raw); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	})
	if allocations >= 1 { // a collection of garbage empties the pools
		t.Errorf("%v allocations a message", allocations)
	}
}
