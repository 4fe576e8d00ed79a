package record

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
)

// maxLine is the longest line with its newline.
const maxLine = hashDigits + 1 + MaxEntryBytes + 1

// Report is what a verification found.
type Report struct {
	// Segments and Entries count what was read and found good.
	Segments, Entries uint64
	// Seq and Head are the head of the log: the last entry's number and the
	// last line's hash.
	Seq  uint64
	Head [32]byte
	// TornBytes is the length of an unfinished last line, and of what is in the
	// journal and does not go on from there. It was not verified.
	TornBytes int64
}

// Verify recomputes the whole chain of the log in dir, with what the journal adds to
// it. It changes nothing and may run while somebody appends: it then covers at
// least the entries that were there when it began. The first line that is wrong is
// returned as a [BrokenError], together with the report up to there. A directory
// without a log is [fs.ErrNotExist].
func Verify(dir string) (Report, error) {
	w, err := walk(dir, 1, func(Entry) bool { return true })
	if errors.Is(err, ErrTorn) {
		err = nil
	}
	return w.report(), err
}

// Read returns the entries of the log in dir, oldest first, verifying them on
// the way. It ends with an error at the first line that is wrong
// ([BrokenError]), at an unfinished last line or at lines of the journal that do not
// go on from there ([ErrTorn]), and where the directory has no log
// ([fs.ErrNotExist]). Entries that were there when it began are not missed, whoever
// appends meanwhile.
func Read(dir string) iter.Seq2[Entry, error] { return ReadFrom(dir, 1) }

// ReadFrom is [Read] from the given segment on, counted from 1. What that
// segment's header says about the segments before it is taken on trust.
func ReadFrom(dir string, segment uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		stopped := false
		_, err := walk(dir, segment, func(e Entry) bool {
			stopped = !yield(e, nil)
			return !stopped
		})
		if err != nil && !stopped {
			yield(Entry{}, err)
		}
	}
}

// Segments returns the number of segments of the log in dir.
func Segments(dir string) (uint64, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, fmt.Errorf("read log %s: %w", dir, err)
	}
	n, err := lastSegment(root)
	if err = errors.Join(err, root.Close()); err != nil {
		return 0, fmt.Errorf("read log %s: %w", dir, err)
	}
	return n, nil
}

func walk(dir string, from uint64, visit func(Entry) bool) (walker, error) {
	var w walker
	root, err := os.OpenRoot(dir)
	if err != nil {
		return w, fmt.Errorf("read log %s: %w", dir, err)
	}
	w.root = root
	w.journal, err = readJournal(root) // before the segments are looked at
	if err == nil {
		w.last, err = lastSegment(root)
	}
	if err == nil && (from == 0 || from > w.last) {
		err = fmt.Errorf("segment %d: %w", from, fs.ErrNotExist)
	}
	if err == nil {
		err = w.walk(from, visit)
	}
	if err = errors.Join(err, root.Close()); err != nil {
		return w, fmt.Errorf("read log %s: %w", dir, err)
	}
	return w, nil
}

// walker goes through the segments and keeps what it has seen.
type walker struct {
	root  *os.Root
	last  uint64 // the last segment; only its last line may be torn
	chain chain

	segments, total uint64 // segments begun and entries seen
	entries         uint64 // entries in the current segment
	offset          int64  // end of the last good line in the current segment
	torn            int64  // bytes of a line without an end in the last one

	journal []byte // lines that may go on behind the last segment
	moved   []byte // those of them that do
	foreign int64  // bytes of those that do not
}

func (w *walker) report() Report {
	r := Report{Segments: w.segments, Entries: w.total, Head: w.chain.hash, TornBytes: w.foreign}
	if !w.completed() {
		r.TornBytes += w.torn
	}
	if w.chain.next > 0 {
		r.Seq = w.chain.next - 1
	}
	return r
}

// walk verifies the segments from the given one on and what the journal adds to
// them, until visit returns false.
func (w *walker) walk(from uint64, visit func(Entry) bool) error {
	more, err := w.files(from, visit)
	torn := errors.Is(err, ErrTorn)
	if err != nil && !torn || !torn && !more || w.offset == 0 {
		return err
	}
	if stopped := !w.follow(visit); stopped {
		return nil
	}
	switch {
	case w.foreign > 0:
		return fmt.Errorf("%s:%d: %w", journalName, w.chain.line, ErrTorn)
	case w.completed():
		return nil
	}
	return err
}

// files verifies the segments and reports whether to go on.
func (w *walker) files(from uint64, visit func(Entry) bool) (bool, error) {
	w.chain.next = 1
	r := lineReader{r: bufio.NewReaderSize(nil, 32<<10)}
	for n := from; n <= w.last; n++ {
		f, err := w.root.Open(segmentName(n))
		if n == w.last && n > from && errors.Is(err, fs.ErrNotExist) {
			// A writer that lacked room for its header took it back.
			return true, nil
		}
		if err != nil {
			return false, err
		}
		w.chain.file, w.chain.line, w.entries, w.offset = segmentName(n), 0, 0, 0
		r.r.Reset(f)
		more, err := w.segment(&r, n, from, visit)
		if err = errors.Join(err, f.Close()); err != nil || !more {
			return false, err
		}
	}
	return true, nil
}

// segment verifies one segment and reports whether to go on.
func (w *walker) segment(r *lineReader, n, from uint64, visit func(Entry) bool) (bool, error) {
	for {
		w.chain.line++
		line, err := r.next()
		switch {
		case err == io.EOF:
			return true, w.end(nil, n)
		case err == io.ErrUnexpectedEOF:
			return false, w.end(line, n)
		case err != nil:
			return false, err
		case line == nil:
			return false, w.chain.broken(fmt.Sprintf("a line of at most %d bytes", maxLine), "a longer one")
		}
		if w.chain.line == 1 {
			if n == from && n > 1 {
				if err := w.chain.adopt(line); err != nil {
					return false, err
				}
			}
			if err := w.chain.header(line, n); err != nil {
				return false, err
			}
			w.segments++
			w.offset += int64(len(line)) + 1
			continue
		}
		e, err := w.chain.entry(line)
		if err != nil {
			return false, err
		}
		w.offset += int64(len(line)) + 1
		w.entries++
		w.total++
		if !visit(e) {
			return false, nil
		}
	}
}

// end judges the end of a segment, at which rest is left without a newline.
func (w *walker) end(rest []byte, n uint64) error {
	if len(rest) == 0 && w.chain.line > 1 {
		return nil
	}
	if n == w.last && (len(rest) == 0 || beginsLine(rest)) {
		w.torn = int64(len(rest))
		return fmt.Errorf("%s:%d: %w", w.chain.file, w.chain.line, ErrTorn)
	}
	return w.chain.broken("a complete line", quote(string(rest)))
}

// beginsLine reports whether b could be the beginning of a line that a crash
// cut short, with NULs in place of what never reached the disk.
func beginsLine(b []byte) bool {
	b = bytes.TrimRight(b, "\x00")
	for _, c := range b[:min(len(b), hashDigits)] {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	if len(b) <= hashDigits {
		return true
	}
	if b[hashDigits] != ' ' {
		return false
	}
	object := b[hashDigits+1:]
	if len(object) == 0 {
		return true
	}
	if object[0] != '{' {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(object))
	var value json.RawMessage
	err := d.Decode(&value)
	if err != nil {
		return errors.Is(err, io.ErrUnexpectedEOF)
	}
	// A whole object: only its newline may be missing.
	return d.InputOffset() == int64(len(object))
}

// lineReader reads lines of bounded length.
type lineReader struct {
	r   *bufio.Reader
	buf []byte
}

// next returns the next line without its newline, valid until the next call.
// At the end it returns io.EOF, or io.ErrUnexpectedEOF with what is left if
// that has no newline. A nil line without an error is one that is too long.
func (l *lineReader) next() ([]byte, error) {
	l.buf = l.buf[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		if len(l.buf)+len(part) > maxLine {
			return nil, nil
		}
		if err == nil && len(l.buf) == 0 {
			return part[:len(part)-1], nil
		}
		l.buf = append(l.buf, part...)
		switch {
		case err == nil:
			return l.buf[:len(l.buf)-1], nil
		case err == io.EOF && len(l.buf) == 0:
			return nil, io.EOF
		case err == io.EOF:
			return l.buf, io.ErrUnexpectedEOF
		case err != bufio.ErrBufferFull:
			return nil, err
		}
	}
}
