package record

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	format       = 1
	fileMode     = 0o600
	dirMode      = 0o700
	segmentExt   = ".log"
	segmentWidth = 6
)

// header is the object in the first line of a segment. The order of the fields
// is the order of the keys.
type header struct {
	Segment  uint64 `json:"segment"`
	Format   int    `json:"format"`
	Created  string `json:"created"`
	Next     uint64 `json:"next"`
	Previous string `json:"previous"`
}

func newHeader(segment, next uint64, previous [32]byte, now time.Time) ([]byte, error) {
	return json.Marshal(header{
		Segment:  segment,
		Format:   format,
		Created:  now.UTC().Format(time.RFC3339Nano),
		Next:     next,
		Previous: hex.EncodeToString(previous[:]),
	})
}

func segmentName(n uint64) string {
	return fmt.Sprintf("%0*d%s", segmentWidth, n, segmentExt)
}

// segmentNumber is the inverse of segmentName; every other name is refused, so
// that no file can stand for a segment under a second name.
func segmentNumber(name string) (uint64, bool) {
	digits, found := strings.CutSuffix(name, segmentExt)
	if !found {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n == 0 || segmentName(n) != name {
		return 0, false
	}
	return n, true
}

// lastSegment checks that the segments are numbered from 1 without gaps and
// returns the number of the last one, zero if there is none.
func lastSegment(root *os.Root) (uint64, error) {
	files, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return 0, fmt.Errorf("list segments: %w", err)
	}
	var numbers []uint64
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), segmentExt) {
			continue
		}
		n, ok := segmentNumber(f.Name())
		if !ok {
			return 0, &BrokenError{File: quote(f.Name()), Want: "only segments", Got: "a name that is none"}
		}
		if err := regular(f.Name(), f.Type()); err != nil {
			return 0, err
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	last := uint64(0)
	for _, n := range numbers {
		for last++; last < n; last++ {
			if err := overlooked(root, last); err != nil {
				return 0, err
			}
		}
	}
	return last, nil
}

// overlooked checks a segment that a list lacks, and that has later ones. Lists of
// many files are made in parts: where segments are created meanwhile, a list may
// have one and not that before.
func overlooked(root *os.Root, n uint64) error {
	info, err := root.Lstat(segmentName(n))
	if errors.Is(err, fs.ErrNotExist) {
		return &BrokenError{File: segmentName(n), Want: "a segment", Got: "nothing"}
	}
	if err != nil {
		return fmt.Errorf("list segments: %w", err)
	}
	return regular(info.Name(), info.Mode())
}

// regular refuses links and pipes, which could lead a reader elsewhere or hold it.
func regular(name string, mode fs.FileMode) error {
	if !mode.IsRegular() {
		return &BrokenError{File: name, Want: "a regular file", Got: mode.Type().String()}
	}
	return nil
}

// quote makes bytes of unknown origin printable and short.
func quote(s string) string {
	const limit = 80
	if len(s) > limit {
		return strconv.QuoteToASCII(s[:limit]) + "…"
	}
	return strconv.QuoteToASCII(s)
}
