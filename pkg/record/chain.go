package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

const (
	hashDigits = 2 * sha256.Size
	maxKind    = 64
)

// Entry is one entry of a log.
type Entry struct {
	// Seq counts the entries of the whole log from 1.
	Seq uint64
	// Time is the wall clock at the append, in UTC.
	Time time.Time
	// Kind tells what Body is: 1 to 64 of a-z, 0-9 and "_".
	Kind string
	// Body is the entry's JSON value. It belongs to whoever got the Entry from
	// [Read]; [Log.Append] leaves it nil.
	Body json.RawMessage
	// Hash is the hash of the entry's line: the head of the log up to here.
	Hash [32]byte
}

// chain is what a line must follow on: the expectations of a verifier.
type chain struct {
	hash [32]byte
	next uint64 // seq of the next entry
	file string
	line int
}

// broken reports a mismatch at the current line.
func (c *chain) broken(want, got string) error {
	return &BrokenError{File: c.file, Line: c.line, Want: want, Got: got}
}

// object checks a line's shape and hash and returns its JSON bytes, which
// alias line. The chain moves on to the line's hash.
func (c *chain) object(line []byte) ([]byte, error) {
	if len(line) < hashDigits+1 || line[hashDigits] != ' ' {
		return nil, c.broken("a hash, a space and an object", quote(string(line)))
	}
	object := line[hashDigits+1:]
	if len(object) > MaxEntryBytes {
		return nil, c.broken(fmt.Sprintf("at most %d bytes", MaxEntryBytes), fmt.Sprintf("%d", len(object)))
	}
	want := link(c.hash, object)
	// Compared as text: a hash has one spelling only.
	var digits [hashDigits]byte
	hex.Encode(digits[:], want[:])
	if !bytes.Equal(digits[:], line[:hashDigits]) {
		return nil, c.broken("hash "+string(digits[:]), quote(string(line[:hashDigits])))
	}
	c.hash = want
	return object, nil
}

// header checks the first line of a segment against the chain.
func (c *chain) header(line []byte, segment uint64) error {
	previous := c.hash
	object, err := c.object(line)
	if err != nil {
		return err
	}
	h, err := parseHeader(object)
	if err != nil {
		return c.broken("a segment header", quote(string(object)))
	}
	want := header{Segment: segment, Format: format, Created: h.Created, Next: c.next, Previous: hex.EncodeToString(previous[:])}
	if h != want {
		return c.broken(fmt.Sprintf("header %+v", want), quote(string(object)))
	}
	return nil
}

// adopt makes the chain start with what a segment's header claims about the
// segments before it. The header is then checked like any other.
func (c *chain) adopt(line []byte) error {
	if len(line) < hashDigits+1 {
		return c.broken("a hash, a space and an object", quote(string(line)))
	}
	h, err := parseHeader(line[hashDigits+1:])
	if err != nil {
		return c.broken("a segment header", quote(string(line)))
	}
	if _, err := hex.Decode(c.hash[:], []byte(h.Previous)); err != nil {
		return c.broken("a hash as previous", quote(h.Previous))
	}
	c.next = h.Next
	return nil
}

// entry checks a line against the chain and returns a copy of what it holds.
func (c *chain) entry(line []byte) (Entry, error) {
	object, err := c.object(line)
	if err != nil {
		return Entry{}, err
	}
	e, ok := parseEntry(object)
	if !ok {
		return Entry{}, c.broken("an entry", quote(string(object)))
	}
	if e.Seq != c.next {
		return Entry{}, c.broken(fmt.Sprintf("seq %d", c.next), fmt.Sprintf("seq %d", e.Seq))
	}
	c.next++
	e.Hash = c.hash
	return e, nil
}

// link returns the hash of the line that holds object and follows previous.
func link(previous [32]byte, object []byte) [32]byte {
	var sum [32]byte
	h := sha256.New()
	h.Write(previous[:]) // a hash never fails to write
	h.Write(object)
	h.Sum(sum[:0])
	return sum
}

// parseHeader accepts exactly what newHeader writes.
func parseHeader(object []byte) (header, error) {
	var h header
	if err := json.Unmarshal(object, &h); err != nil {
		return header{}, err
	}
	if len(h.Previous) != hashDigits || !canonicalTime(h.Created) {
		return header{}, ErrBroken
	}
	again, err := json.Marshal(h)
	if err != nil {
		return header{}, err
	}
	if !bytes.Equal(again, object) {
		return header{}, ErrBroken
	}
	return h, nil
}

// parseEntry accepts exactly what a draft has. A parser of its own,
// since two keys of one name or another order would let two readers of one
// line see different things.
func parseEntry(object []byte) (Entry, bool) {
	var e Entry
	rest, ok := bytes.CutPrefix(object, []byte(`{"seq":`))
	if !ok {
		return e, false
	}
	digits, rest, ok := bytes.Cut(rest, []byte(`,"time":"`))
	if !ok || len(digits) > 20 || len(digits) == 0 || digits[0] == '0' {
		return e, false
	}
	seq, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil {
		return e, false
	}
	stamp, rest, ok := bytes.Cut(rest, []byte(`","kind":"`))
	if !ok || len(stamp) > len(time.RFC3339Nano) || !canonicalTime(string(stamp)) {
		return e, false
	}
	kind, rest, ok := bytes.Cut(rest, []byte(`","body":`))
	if !ok || !validKind(string(kind)) {
		return e, false
	}
	body, ok := bytes.CutSuffix(rest, []byte("}"))
	if !ok || len(body) == 0 || !json.Valid(body) {
		return e, false
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return e, false
	}
	return Entry{Seq: seq, Time: at.UTC(), Kind: string(kind), Body: bytes.Clone(body)}, true
}

func canonicalTime(s string) bool {
	t, err := time.Parse(time.RFC3339Nano, s)
	return err == nil && t.UTC().Format(time.RFC3339Nano) == s
}

func validKind(s string) bool {
	if len(s) == 0 || len(s) > maxKind {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}
