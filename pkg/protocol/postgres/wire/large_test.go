package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
)

// cycle reads the same bytes again and again, at most 64 KiB at a time.
type cycle struct {
	data []byte
	at   int
}

func (c *cycle) Read(p []byte) (int, error) {
	n := copy(p[:min(len(p), 64<<10)], c.data[c.at:])
	c.at = (c.at + n) % len(c.data)
	return n, nil
}

func largeMessage(size int) []byte {
	m := bytes.Repeat([]byte{0xa5}, size+headerSize)
	m[0] = DataRow
	binary.BigEndian.PutUint32(m[1:], uint32(size+4))
	return m
}

func TestALargeMessageIsWholeAtAnySize(t *testing.T) {
	for _, size := range []int{BufferSize - 5, BufferSize, 2*BufferSize - 5, 2 * BufferSize, 1 << 20, largeBuffer - 5, largeBuffer, 3 * largeBuffer} {
		m := largeMessage(size)
		r := NewReader(&cycle{data: m}, nil)
		for range 3 {
			if _, _, err := r.Next(); err != nil {
				t.Fatal(err)
			}
			raw, err := r.Raw(size)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(raw, m) {
				t.Errorf("a message of %d bytes is another one", size)
			}
			clear(raw[:3]) // a caller may
		}
	}
}

func TestNobodyGetsWhatALargeMessageHeld(t *testing.T) {
	const size = 1 << 20
	r := NewReader(&cycle{data: largeMessage(size)}, nil)
	if _, _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	raw, err := r.Raw(size)
	if err != nil {
		t.Fatal(err)
	}
	whole := raw[:cap(raw)]
	r.Release()
	if at := bytes.IndexByte(whole, 0xa5); at >= 0 {
		t.Errorf("byte %d was not wiped", at)
	}
}

func BenchmarkLarge(b *testing.B) {
	for _, size := range []int{10 << 10, 100 << 10, 256 << 10, 1 << 20, 3 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			r := NewReader(&cycle{data: largeMessage(size)}, nil)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := r.Next(); err != nil {
					b.Fatal(err)
				}
				if _, err := r.Raw(size); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
