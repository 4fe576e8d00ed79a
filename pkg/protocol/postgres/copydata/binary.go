package copydata

import (
	"bytes"
	"encoding/binary"
)

const (
	signature = "PGCOPY\n\xff\r\n\x00"
	// fixedHeader is the signature, the flags and the length of the extension.
	fixedHeader = len(signature) + 8
	// critical are the flags that change how the data is read. One of them tells
	// of object ids in front of each row.
	critical = 0xffff0000
	// maxExtension bounds the header's extension. No server has sent any yet.
	maxExtension = 64 << 10
)

// part is what the binary codec has found.
type part uint8

const (
	head part = iota
	tuple
	trailer
)

// binaryCodec is the binary format.
type binaryCodec struct {
	layout Layout
	part   part // what comes next
	at     int  // how much of a row has been looked at
	fields int  // values of the row in front of that
}

func (b *binaryCodec) next(data []byte) (int, error) {
	switch b.part {
	case head:
		return b.header(data)
	case tuple:
		return b.row(data)
	default:
		return 0, malformed("data behind the end")
	}
}

func (b *binaryCodec) header(data []byte) (int, error) {
	n := min(len(data), len(signature))
	if !bytes.Equal(data[:n], []byte(signature[:n])) {
		return 0, malformed("signature")
	}
	if len(data) < fixedHeader {
		return 0, nil
	}
	flags := binary.BigEndian.Uint32(data[len(signature):])
	extension := binary.BigEndian.Uint32(data[len(signature)+4:])
	if flags&critical != 0 || extension > maxExtension {
		return 0, malformed("header")
	}
	if whole := fixedHeader + int(extension); len(data) >= whole {
		return whole, nil
	}
	return 0, nil
}

// row looks for the end of a row, or finds the one of the data.
func (b *binaryCodec) row(data []byte) (int, error) {
	if b.at == 0 {
		if len(data) < 2 {
			return 0, nil
		}
		switch n := int(int16(binary.BigEndian.Uint16(data))); n {
		case -1:
			b.part = trailer
			return 2, nil
		case b.layout.Columns:
			b.at = 2
		default:
			return 0, malformed("row of another width")
		}
	}
	for ; b.fields < b.layout.Columns; b.fields++ {
		if len(data) < b.at+4 {
			return 0, nil
		}
		n := int(int32(binary.BigEndian.Uint32(data[b.at:])))
		switch {
		case n < -1:
			return 0, malformed("length of a value")
		case n > b.layout.MaxRow:
			return 0, tooLarge("value", n)
		case len(data) < b.at+4+max(n, 0):
			return 0, nil
		}
		b.at += 4 + max(n, 0)
	}
	n := b.at
	b.at, b.fields = 0, 0
	return n, nil
}

func (b *binaryCodec) rewrite(e *editor, start, _ int) error {
	if b.part != tuple {
		if b.part == head {
			b.part = tuple
		}
		return nil
	}
	at := start + 2
	for column := range b.layout.Columns {
		n := int(int32(binary.BigEndian.Uint32(e.source[at:])))
		end := at + 4 + max(n, 0)
		var value []byte
		if n >= 0 {
			value = e.source[at+4 : end : end]
		}
		other, verdict := e.treat(column, value)
		switch {
		case verdict == Keep, verdict == Nullify && value == nil:
		case verdict == Replace:
			e.cut(at, end)
			e.out = append(binary.BigEndian.AppendUint32(e.out, uint32(len(other))), other...)
		default:
			e.cut(at, end)
			e.out = binary.BigEndian.AppendUint32(e.out, 0xffffffff)
		}
		at = end
	}
	e.rows++
	return nil
}

func (b *binaryCodec) finish() error {
	if b.part != trailer {
		return malformed("no end")
	}
	return nil
}
