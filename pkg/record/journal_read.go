package record

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"
)

// readJournal returns the lines of the journal in a log's directory, nil if there
// are none. It must be called before the segments are read: what was in the
// journal then is in what it returns, or in a segment. It changes nothing, waits
// for nobody, and what it returns is not verified.
func readJournal(root *os.Root) ([]byte, error) {
	f, err := openJournal(root)
	if f == nil || err != nil {
		return nil, err
	}
	lines, err := journaled(f)
	return lines, errors.Join(err, f.Close())
}

// openJournal opens the journal for reading. It returns nil if there is none.
func openJournal(root *os.Root) (*os.File, error) {
	info, err := root.Lstat(journalName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := regular(journalName, info.Mode()); err != nil {
		return nil, err
	}
	f, err := root.Open(journalName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

func journaled(f io.ReaderAt) ([]byte, error) {
	before, err := readState(f)
	if err != nil {
		return nil, err
	}
	used := min(uint32(before), journalBytes-journalHead)
	if used == 0 {
		return nil, nil
	}
	lines := make([]byte, used)
	n, err := f.ReadAt(lines, journalHead)
	if err != nil && err != io.EOF {
		return nil, err
	}
	after, err := readState(f)
	if err != nil {
		return nil, err
	}
	if before>>32 != after>>32 {
		// It was emptied meanwhile: everything that was in it when the reading
		// began is in a segment now.
		return nil, nil
	}
	return lines[:n], nil
}

// readState returns a journal's state, zero for one that was not finished. Nobody
// promises that a read of eight bytes takes place at once; two that are the same
// are not both halves of two.
func readState(f io.ReaderAt) (uint64, error) {
	var last uint64
	var b [8]byte
	for range 100 {
		n, err := f.ReadAt(b[:], 0)
		if n < len(b) && err == io.EOF {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		state := binary.LittleEndian.Uint64(b[:])
		if state == last {
			break
		}
		last = state
	}
	return last, nil
}

// fresh returns those of the lines that come after the entry seq, and of those
// before them the hash that the last one claims, if it is the entry seq.
func fresh(lines []byte, seq uint64) (rest, hash []byte) {
	for rest = lines; ; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		n, ok := claimedSeq(line)
		if !whole || !ok || n > seq {
			return rest, hash
		}
		if n == seq {
			hash = line[:hashDigits]
		}
		rest = after
	}
}

// claimedSeq returns which entry a line says it is.
func claimedSeq(line []byte) (uint64, bool) {
	const prefix = ` {"seq":`
	if len(line) < hashDigits {
		return 0, false
	}
	rest, ok := bytes.CutPrefix(line[hashDigits:], []byte(prefix))
	if !ok {
		return 0, false
	}
	digits, _, ok := bytes.Cut(rest, []byte(","))
	if !ok || len(digits) > 20 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(digits), 10, 64)
	return n, err == nil
}

// follow verifies and visits the lines of the journal that go on behind the last
// segment, and reports whether visit wants more.
func (w *walker) follow(visit func(Entry) bool) bool {
	rest, _ := fresh(w.journal, w.chain.next-1)
	begin := rest
	w.chain.file, w.chain.line = journalName, 0
	for len(rest) > 0 {
		w.chain.line++
		good := w.chain
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		e, err := w.chain.entry(line)
		if !whole || err != nil {
			w.chain, w.foreign = good, int64(len(rest))
			return true
		}
		rest = after
		w.moved = begin[:len(begin)-len(rest)]
		w.entries++
		w.total++
		if !visit(e) {
			return false
		}
	}
	return true
}

// completed reports whether the journal holds the whole of the line of which the
// last segment has a beginning: a process died while it moved it there.
func (w *walker) completed() bool { return len(w.moved) > 0 }

// strange returns how many bytes of the journal are not known to be of this log,
// provided that nobody appends to it. What was in the segments already must end
// where they do: the journal is emptied before anything else is written there.
func (w *walker) strange() int64 {
	if w.foreign > 0 || len(w.moved) > 0 || len(w.journal) == 0 {
		return w.foreign
	}
	_, claimed := fresh(w.journal, w.chain.next-1)
	if string(claimed) == hex.EncodeToString(w.chain.hash[:]) {
		return 0
	}
	return int64(len(w.journal))
}
