package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a time span, written as in "2s" or "1m30s".
type Duration time.Duration

// UnmarshalText reads the form that [time.ParseDuration] reads; it must not be
// negative.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration, as in 2s or 1m30s", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText returns the form that is read.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String returns the form that is read.
func (d Duration) String() string { return time.Duration(d).String() }

// Size is a number of bytes, written as in "512B", "64KiB" or "1GiB".
type Size int64

var sizeUnits = []struct {
	suffix string
	bytes  Size
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// UnmarshalText reads a whole number and its unit.
func (s *Size) UnmarshalText(text []byte) error {
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(string(text), u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			break
		}
		*s = Size(n) * u.bytes
		return nil
	}
	return fmt.Errorf("%q is not a size, as in 512B, 64KiB, 16MiB or 1GiB", text)
}

// MarshalText returns the form that is read.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String returns the size in the largest unit that divides it.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s >= u.bytes && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}
