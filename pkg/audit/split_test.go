package audit

import (
	"bytes"
	"strings"
	"testing"
)

// FuzzSplit checks that every frame fits, and that none loses text or rows.
func FuzzSplit(f *testing.F) {
	f.Add("text", []byte("data"), "cell", 3)
	f.Fuzz(func(t *testing.T, text string, data []byte, cell string, n int) {
		n = n & 0xfff
		frame := Frame{Kind: FrameRows, Text: strings.Repeat(text, n), Data: bytes.Repeat(data, n)}
		for range n {
			frame.Rows = append(frame.Rows, []*string{&cell, nil})
		}
		rows, size := 0, 0
		for part := range frame.split {
			rows += len(part.Rows)
			size += len(part.Text) + len(part.Data)
			if part.size() > 4*maxFrameBytes {
				t.Errorf("a part has %d bytes", part.size())
			}
		}
		if rows != n || size != len(frame.Text)+len(frame.Data) {
			t.Errorf("%d of %d rows, %d of %d bytes", rows, n, size, len(frame.Text)+len(frame.Data))
		}
	})
}
