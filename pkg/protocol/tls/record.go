package tls

import (
	"errors"
	"fmt"

	"github.com/headgate/headgate/pkg/transparent"
)

const (
	recordHeader    = 5
	recordHandshake = 22
	recordAlert     = 21
	// maxRecord is the largest plaintext record (RFC 8446 section 5.1).
	maxRecord = 1 << 14

	handshakeHeader = 4
	clientHello     = 1
)

var (
	errNotHandshake = errors.New("first record is no handshake")
	errNotHello     = errors.New("first message is no ClientHello")
	errTooLong      = fmt.Errorf("ClientHello is longer than %d bytes", transparent.MaxPeek)
	errLeftover     = errors.New("record goes on after the ClientHello")
)

// helloBody finds the body of the ClientHello at the start of b, which is what
// an agent has sent so far; the hello may be cut into several records. If it is
// not all there yet, body is nil and need is a number of bytes, more than b has
// and at most transparent.MaxPeek, without which it can't be. The body is a
// part of b where it came in one record, and a copy otherwise.
func helloBody(b []byte) (body []byte, need int, err error) {
	var message []byte
	for rest := b; ; {
		fragment, need, err := fragment(rest)
		if err != nil {
			return nil, 0, err
		}
		if fragment == nil {
			need += len(b) - len(rest)
			if need > transparent.MaxPeek {
				return nil, 0, errTooLong
			}
			return nil, need, nil
		}
		rest = rest[recordHeader+len(fragment):]
		if message == nil {
			message = fragment[:len(fragment):len(fragment)]
		} else {
			message = append(message, fragment...)
		}
		want, err := messageLength(message)
		if err != nil {
			return nil, 0, err
		}
		switch {
		case len(message) > want:
			return nil, 0, errLeftover
		case len(message) == want && want > handshakeHeader:
			return message[handshakeHeader:], 0, nil
		case len(b)-len(rest)+want-len(message)+recordHeader > transparent.MaxPeek:
			return nil, 0, errTooLong
		}
	}
}

// fragment returns the content of the handshake record at the start of b, or
// how many bytes b must have for it.
func fragment(b []byte) (content []byte, need int, err error) {
	if len(b) > 0 && b[0] != recordHandshake {
		return nil, 0, errNotHandshake
	}
	if len(b) > 1 && b[1] != 3 {
		return nil, 0, fmt.Errorf("record has major version %d, want 3", b[1])
	}
	if len(b) < recordHeader {
		return nil, recordHeader, nil
	}
	n := int(b[3])<<8 | int(b[4])
	if n == 0 || n > maxRecord {
		return nil, 0, fmt.Errorf("record has %d bytes, want 1 to %d", n, maxRecord)
	}
	if len(b) < recordHeader+n {
		return nil, recordHeader + n, nil
	}
	return b[recordHeader : recordHeader+n], 0, nil
}

// messageLength returns the length that a handshake message will have with its
// header, or that of the header while it isn't complete.
func messageLength(message []byte) (int, error) {
	if message[0] != clientHello {
		return 0, errNotHello
	}
	if len(message) < handshakeHeader {
		return handshakeHeader, nil
	}
	n := int(message[1])<<16 | int(message[2])<<8 | int(message[3])
	if n > transparent.MaxPeek {
		return 0, errTooLong
	}
	if n == 0 {
		return 0, errNotHello
	}
	return handshakeHeader + n, nil
}

// alert returns a fatal alert in a record of its own.
func alert(description byte) []byte {
	const fatal = 2
	return []byte{recordAlert, 3, 3, 0, 2, fatal, description}
}
