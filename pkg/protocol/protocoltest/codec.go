package protocoltest

import (
	"fmt"
	"strconv"
)

// Codec is how the lines of a conversation stand for bytes. It may implement
// [UpDecoder], [Farewell] and [Inspector] as well. It must not keep state.
type Codec interface {
	// Encode returns the bytes that one line stands for, in a slice that the
	// caller may keep.
	Encode(line string) ([]byte, error)
	// Decode returns lines for bytes, for messages to people: all that one side
	// has sent so far, which may end anywhere and may be nonsense. It never
	// fails: what it can't make sense of it quotes.
	Decode(p []byte) []string
}

// UpDecoder is a [Codec] of a language in which the two directions look
// different. Decode is then asked for what goes down only.
type UpDecoder interface {
	// DecodeUp is Decode for what goes up.
	DecodeUp(p []byte) []string
}

// Farewell is a [Codec] of a language in which headgate takes leave of the
// upstream when the agent is gone.
type Farewell interface {
	// Farewell returns the bytes that may follow, once, after what the agent
	// sent before its connection ended.
	Farewell() []byte
}

// Inspector is a [Codec] of a language in which the upstream may receive bytes
// although every operation is denied: a log-in, or the messages that take the
// place of denied ones.
type Inspector interface {
	// Inspect looks at all that the upstream received in a session in which
	// every operation was denied, and returns an error that names the first
	// operation among it that the agent asked for, or nil if there is none.
	Inspect(up []byte) error
}

// Quoted is the codec of languages that are readable as Go string literals.
var Quoted Codec = quoted{}

type quoted struct{}

func (quoted) Encode(line string) ([]byte, error) {
	s, err := strconv.Unquote(line)
	if err != nil {
		return nil, fmt.Errorf("unquote %s: not a Go string literal", line)
	}
	return []byte(s), nil
}

// Decode starts a new line after each line feed and after 64 bytes.
func (quoted) Decode(p []byte) []string {
	const width = 64
	var lines []string
	for start := 0; start < len(p); {
		end := start
		for end < len(p) && end-start < width {
			end++
			if p[end-1] == '\n' {
				break
			}
		}
		lines = append(lines, strconv.Quote(string(p[start:end])))
		start = end
	}
	return lines
}

// decodeUp returns lines for what went up.
func decodeUp(c Codec, p []byte) []string {
	if up, ok := c.(UpDecoder); ok {
		return up.DecodeUp(p)
	}
	return c.Decode(p)
}
