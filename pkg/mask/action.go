package mask

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// Transform is a way to rewrite a value. The order is that of strictness, the
// strictest first, so that the zero Transform discloses nothing.
type Transform uint8

// The transforms.
const (
	// Null replaces a value by the protocol's null. Inside a value, where there
	// is no such thing, it acts like Redact.
	Null Transform = iota
	// Redact replaces a value by "[redacted]".
	Redact
	// Constant replaces a value by the rule's constant.
	Constant
	// Hash replaces a value by 16 letters of its HMAC-SHA256 (64 bits), so that
	// equal values stay equal and nobody without the key can guess them.
	Hash
	// KeepLast4 replaces each character by '*' except separators (space, '-',
	// '.', '/', ':', '@') and the last four others. It keeps fewer than four of
	// a short value (at most half of its characters), and nothing in front of
	// the last '@'. The number of characters stays the same.
	KeepLast4
)

var transformNames = [...]string{Null: "null", Redact: "redact", Constant: "constant", Hash: "hash", KeepLast4: "keep-last-4"}

// Transforms returns the names of the transforms, sorted.
func Transforms() []string { return slices.Sorted(slices.Values(transformNames[:])) }

// String returns the transform's name as rules write it.
func (t Transform) String() string {
	if int(t) < len(transformNames) {
		return transformNames[t]
	}
	return transformNames[Null]
}

func parseTransform(name string) (Transform, error) {
	i := slices.Index(transformNames[:], name)
	if i < 0 {
		return Null, fmt.Errorf("unknown transform %q, want one of %s", name, strings.Join(Transforms(), ", "))
	}
	return Transform(i), nil
}

const redacted = "[redacted]"

// Action is what a rule does to a value. The zero Action nulls.
type Action struct {
	// Rule is the name of the rule, With its transform.
	Rule string
	With Transform

	constant string
	hash     *hasher
}

// Fixed returns the rule's constant, and false if the transform is another one.
// Who knows a value's type can write it as a value of that type.
func (a Action) Fixed() (string, bool) { return a.constant, a.With == Constant }

// Apply appends the rewritten value to dst and returns the extended buffer. If
// null is true nothing was appended and the value is to be sent as the
// protocol's null. The value is not kept and not changed; dst must not overlap
// it. A value that is null already is the caller's business.
func (a Action) Apply(dst, value []byte) (out []byte, null bool) {
	if a.With > KeepLast4 || a.With == Null {
		return dst, true
	}
	return a.rewrite(dst, value), false
}

// rewrite is Apply for a part of a value, which cannot become null.
func (a *Action) rewrite(dst, value []byte) []byte {
	switch a.With {
	case Constant:
		return append(dst, a.constant...)
	case Hash:
		return a.hash.append(dst, value)
	case KeepLast4:
		return keepLast4(dst, value)
	default:
		return append(dst, redacted...)
	}
}

// keepLast4 stars everything but separators, eight bytes at a time, and puts the
// last characters back, where the value is ASCII without an '@', as nearly all are.
func keepLast4(dst, value []byte) []byte {
	dst = slices.Grow(dst, len(value))
	out := dst[len(dst) : len(dst)+len(value)]
	var all, at uint64
	i, kept := 0, 0 // kept are the separators
	for ; i+8 <= len(value); i += 8 {
		x := binary.LittleEndian.Uint64(value[i:])
		m := separators(x)
		all |= x
		at |= zeroBytes(x ^ '@'*lows)
		kept += bits.OnesCount64(m)
		m = m >> 7 * 0xff
		binary.LittleEndian.PutUint64(out[i:], x&m|'*'*lows&^m)
	}
	for ; i < len(value); i++ {
		c := value[i]
		all |= uint64(c)
		out[i] = '*'
		if is(c, separator) {
			if c == '@' {
				at = highs
			}
			out[i] = c
			kept++
		}
	}
	if (all|at)&highs != 0 {
		return keepLast4Slowly(dst, value)
	}
	for i, keep := len(value)-1, min(4, (len(value)-kept)/2); keep > 0; i-- {
		if !is(value[i], separator) {
			out[i] = value[i]
			keep--
		}
	}
	return dst[:len(dst)+len(value)]
}

// separators sets the high bit of each byte of x that is a separator other than
// '@', and of no other byte, if all of x is ASCII.
func separators(x uint64) uint64 {
	other := (x ^ ' '*lows + 0x7f*lows) & (x ^ ':'*lows + 0x7f*lows)
	dash := (x + (0x80-'-')*lows) &^ (x + (0x80-'/'-1)*lows) // '-', '.', '/'
	return (^other | dash) & highs
}

// keepLast4Slowly writes from the left, so it counts first: how many characters
// there are beside separators, and how many of them stand in front of the last
// '@'.
func keepLast4Slowly(dst, value []byte) []byte {
	total, front := 0, 0
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case c == '@':
			front = total
		case c >= utf8.RuneSelf:
			_, n := utf8.DecodeRune(value[i:])
			i += n - 1
			total++
		case !is(c, separator):
			total++
		}
	}
	stars := max(total-min(4, total/2), front)
	for i := 0; i < len(value); i++ {
		c := value[i]
		n := 1
		if c >= utf8.RuneSelf {
			if _, n = utf8.DecodeRune(value[i:]); n == 1 {
				c = '*' // not UTF-8, whatever its place
			}
		}
		switch {
		case c < utf8.RuneSelf && is(c, separator):
			dst = append(dst, c)
		case stars > 0:
			dst = append(dst, '*')
			stars--
		case n > 1:
			dst = append(dst, value[i:i+n]...)
		default:
			dst = append(dst, c)
		}
		i += n - 1
	}
	return dst
}

// hasher computes keyed hashes. HMAC states are kept for reuse.
type hasher struct{ states sync.Pool }

func newHasher(key []byte) *hasher {
	h := &hasher{}
	h.states.New = func() any { return hmac.New(sha256.New, key) }
	return h
}

// append writes letters only, a to p, so that no detector finds a number in it.
func (h *hasher) append(dst, value []byte) []byte {
	if h == nil {
		return append(dst, redacted...)
	}
	state := h.states.Get().(hash.Hash)
	state.Reset()
	state.Write(value) // never fails, says hash.Hash
	var sum [sha256.Size]byte
	for _, b := range state.Sum(sum[:0])[:8] {
		dst = append(dst, 'a'+b>>4, 'a'+b&15)
	}
	h.states.Put(state)
	return dst
}
