package wire

import (
	"encoding/binary"
	"fmt"
	"io"
)

// MaxStartup is the largest start-up packet, as in PostgreSQL's
// MAX_STARTUP_PACKET_LENGTH.
const MaxStartup = 10000

// Codes in a start-up packet's first four bytes.
const (
	CancelCode  = 80877102
	SSLCode     = 80877103
	GSSCode     = 80877104
	Version30   = 3 << 16
	Version32   = 3<<16 | 2 // since PostgreSQL 18
	minCancel   = 4
	maxCancel   = 256
	maxOptions  = 256
	startupHead = 8
)

// Parameter is a name and a value of a start-up packet, in the order sent.
type Parameter struct{ Name, Value string }

// Startup is a start-up packet. Code tells which one it is.
type Startup struct {
	// Code is [SSLCode], [GSSCode], [CancelCode], or a protocol version of
	// major number 3.
	Code uint32
	// Parameters are a StartupMessage's.
	Parameters []Parameter
	// PID and Key are a CancelRequest's.
	PID uint32
	Key []byte
}

// Minor returns the minor number of the protocol version.
func (s *Startup) Minor() int { return int(s.Code & 0xffff) }

// Get returns the value of the last parameter of that name: PostgreSQL lets a
// later one win.
func (s *Startup) Get(name string) (value string, ok bool) {
	for _, p := range s.Parameters {
		if p.Name == name {
			value, ok = p.Value, true
		}
	}
	return value, ok
}

// ReadStartup reads exactly one start-up packet, and nothing behind it. It
// returns the original bytes beside the decoded packet. io.EOF means that the
// stream ended before the first byte.
func ReadStartup(r io.Reader) (*Startup, []byte, error) {
	raw := make([]byte, startupHead, 512)
	if _, err := io.ReadFull(r, raw[:4]); err != nil {
		if err == io.EOF {
			return nil, nil, io.EOF
		}
		return nil, nil, fmt.Errorf("read start-up packet: %w", err)
	}
	size := binary.BigEndian.Uint32(raw)
	if size < startupHead || size > MaxStartup {
		return nil, nil, fmt.Errorf("read start-up packet: %w: length %d", ErrMalformed, size)
	}
	raw = append(raw[:4], make([]byte, size-4)...)
	if _, err := io.ReadFull(r, raw[4:]); err != nil {
		return nil, nil, fmt.Errorf("read start-up packet: %w", truncated(err))
	}
	s, err := DecodeStartup(raw)
	if err != nil {
		return nil, nil, err
	}
	return s, raw, nil
}

// DecodeStartup decodes a start-up packet, length included.
func DecodeStartup(raw []byte) (*Startup, error) {
	if len(raw) < startupHead || len(raw) > MaxStartup || int(binary.BigEndian.Uint32(raw)) != len(raw) {
		return nil, fmt.Errorf("decode start-up packet: %w: length", ErrMalformed)
	}
	s := &Startup{Code: binary.BigEndian.Uint32(raw[4:])}
	rest := raw[startupHead:]
	switch {
	case s.Code == SSLCode || s.Code == GSSCode:
		if len(rest) != 0 {
			return nil, fmt.Errorf("decode encryption request: %w: length", ErrMalformed)
		}
	case s.Code == CancelCode:
		if len(rest) < 4+minCancel || len(rest) > 4+maxCancel {
			return nil, fmt.Errorf("decode cancel request: %w: length", ErrMalformed)
		}
		s.PID, s.Key = binary.BigEndian.Uint32(rest), rest[4:]
	case s.Code>>16 == 3:
		return s, s.parameters(rest)
	default:
		return nil, fmt.Errorf("decode start-up packet: %w: code %d", ErrMalformed, s.Code)
	}
	return s, nil
}

func (s *Startup) parameters(body []byte) error {
	c := cursor{rest: body}
	for {
		name := c.text()
		if c.bad {
			return fmt.Errorf("decode start-up parameters: %w", ErrMalformed)
		}
		if name == "" {
			break
		}
		value := c.text()
		if c.bad || len(s.Parameters) == maxOptions {
			return fmt.Errorf("decode start-up parameters: %w", ErrMalformed)
		}
		s.Parameters = append(s.Parameters, Parameter{name, value})
	}
	if len(c.rest) != 0 {
		return fmt.Errorf("decode start-up parameters: %w: bytes behind the end", ErrMalformed)
	}
	return nil
}

// AppendRequest appends a request for encryption: [SSLCode] or [GSSCode].
func AppendRequest(dst []byte, code uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, 0, 0, 0, startupHead), code)
}

// AppendCancel appends a CancelRequest. The key must have 4 to 256 bytes.
func AppendCancel(dst []byte, pid uint32, key []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(startupHead+4+len(key)))
	dst = binary.BigEndian.AppendUint32(dst, CancelCode)
	return append(binary.BigEndian.AppendUint32(dst, pid), key...)
}

// AppendStartup appends a StartupMessage of version 3.0.
func AppendStartup(dst []byte, parameters []Parameter) []byte {
	return AppendStartupVersion(dst, Version30, parameters)
}

// AppendStartupVersion appends a StartupMessage of a version of major number 3.
func AppendStartupVersion(dst []byte, version uint32, parameters []Parameter) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, version)
	for _, p := range parameters {
		dst = append(append(dst, p.Name...), 0)
		dst = append(append(dst, p.Value...), 0)
	}
	dst = append(dst, 0)
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at))
	return dst
}
