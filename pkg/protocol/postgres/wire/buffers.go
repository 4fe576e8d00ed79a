package wire

import "sync"

const (
	smallBuffer = 4 << 10
	// steps is how many sizes of buffers there are: smallBuffer, and each twice the
	// one before, up to largeBuffer.
	steps       = 11
	largeBuffer = smallBuffer << (steps - 1)
)

// block is a buffer.
type block struct{ bytes []byte }

// blocks are those that nobody uses, by size. A session that waits holds none: of
// thousands only a few have something in hand at a time.
var blocks [steps]sync.Pool

// step is the place in blocks of the smallest size that is at least n.
func step(n int) int {
	i := 0
	for smallBuffer<<i < n && i < steps-1 {
		i++
	}
	return i
}

// take returns a block of at least n bytes, or of largeBuffer.
func take(n int) *block {
	i := step(n)
	if b, ok := blocks[i].Get().(*block); ok {
		return b
	}
	return &block{make([]byte, smallBuffer<<i)}
}

// giveBack lets others have the block, of which the first used bytes were written
// to. What one session said must not wait in memory for another. A nil block is
// nothing.
func (b *block) giveBack(used int) {
	if b == nil {
		return
	}
	clear(b.bytes[:used])
	blocks[step(len(b.bytes))].Put(b)
}
