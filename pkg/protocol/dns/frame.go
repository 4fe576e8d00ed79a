package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// errInside is returned where a stream ends inside a message.
var errInside = errors.New("stream ends inside a message")

// frames reads messages with a length in front of them. What was read stays
// when a read fails, so that it can go on after a deadline.
type frames struct {
	from io.Reader
	buf  []byte
}

// next returns the next message, which the caller may keep. At the end of the
// stream it returns io.EOF, or errInside.
func (f *frames) next() ([]byte, error) {
	const frame = 2
	if err := f.fill(frame); err != nil {
		return nil, err
	}
	end := frame + int(binary.BigEndian.Uint16(f.buf))
	if err := f.fill(end); err != nil {
		return nil, err
	}
	message := append([]byte(nil), f.buf[frame:end]...)
	f.buf = f.buf[:copy(f.buf, f.buf[end:])]
	return message, nil
}

// fill reads until there are n bytes.
func (f *frames) fill(n int) error {
	for len(f.buf) < n {
		var chunk [4096]byte
		got, err := f.from.Read(chunk[:])
		f.buf = append(f.buf, chunk[:got]...)
		switch {
		case got > 0:
		case err == nil:
			return fmt.Errorf("read message: %w", io.ErrNoProgress)
		case errors.Is(err, io.EOF) && len(f.buf) > 0:
			return errInside
		case errors.Is(err, io.EOF):
			return io.EOF
		default:
			return fmt.Errorf("read message: %w", err)
		}
	}
	return nil
}

// framed returns a message with its length in front, in one piece: an agent
// that reads once must find the whole of it.
func framed(message []byte) []byte {
	b := make([]byte, 2, 2+len(message))
	binary.BigEndian.PutUint16(b, uint16(len(message)))
	return append(b, message...)
}

// withID returns a copy of a message under another id.
func withID(message []byte, id uint16) []byte {
	b := append([]byte(nil), message...)
	binary.BigEndian.PutUint16(b, id)
	return b
}
