package audit

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/headgate/headgate/pkg/record"
)

// kindFrame is the kind of all entries of a recording.
const kindFrame = "frame"

// The directions of a [Frame].
const (
	Up   = "up"   // from the agent to the target
	Down = "down" // from the target to the agent
)

// The kinds of a [Frame].
const (
	FrameOperation = "operation"
	FrameColumns   = "columns"
	FrameRows      = "rows"
	FrameTag       = "tag"   // how an operation ended, where its [Result] does not tell all of it
	FrameError     = "error" // the same of one that failed
	FrameNotice    = "notice"
	FrameData      = "data"
	// FrameTruncated says that the recording reached its bound here. It is
	// written by the recording itself.
	FrameTruncated = "truncated"
)

// Bounds of one frame as it is written; longer ones are split. A frame may hold
// text, data and rows at once, and JSON may make six bytes of one.
const (
	maxFrameBytes = 32 << 10
	maxFrameCells = 8 << 10
)

// Frame is one thing that was said in a session.
type Frame struct {
	// T is when, in milliseconds since the recording began. Append sets it.
	T int64 `json:"t"`
	// Op is the operation that the frame belongs to, if any.
	Op string `json:"op,omitempty"`
	// Direction is Up or Down, or empty.
	Direction string `json:"direction,omitempty"`
	Kind      string `json:"kind"`
	// Text is what was said. What is not UTF-8 moves to Data.
	Text string `json:"text,omitempty"`
	// Data is what was said in bytes that are no text.
	Data []byte `json:"data,omitempty"`
	// Columns and Rows hold a tabular result. A nil cell is NULL. Bytes of a
	// cell that are not UTF-8 become U+FFFD.
	Columns []string    `json:"columns,omitempty"`
	Rows    [][]*string `json:"rows,omitempty"`
	// More says that the next frame goes on with this one.
	More bool `json:"more,omitempty"`
	// Cut says that a cell or a list of columns was too long and was cut.
	Cut bool `json:"cut,omitempty"`
}

// Recording is what was said in one session. Nothing is created on disk without
// a frame, nor before the first frames have waited a moment: most sessions of some
// programs are over by then, and no agent has to wait for a directory. Its methods
// may be called concurrently. A nil Recording refuses frames with [ErrNoAudit].
type Recording struct {
	// Failed, if set before the first Append, is told once why a frame that was
	// taken could not be written in time. It is called without any lock held, and
	// the session must end, as after an error of Append.
	Failed func(error)

	dir   string
	opts  record.Options
	limit int64
	// short is shared by all recordings of a Log: the last attempt to create one
	// failed.
	short *atomic.Bool
	// frames are those that no entry is made of at the moment; those of the log.
	frames *sync.Pool

	mu        sync.Mutex
	began     time.Time
	log       *record.Log // nil while frames are held
	held      held
	size      int64
	failed    error // why a frame is missing
	truncated bool
	closed    bool
}

// Record begins the recording of a session, whose id must pass
// [CheckSessionID]. A session has one: frames of a second are refused. The
// caller closes it. It holds one descriptor from the first frame on.
func (l *Log) Record(session string) (*Recording, error) {
	if l == nil || l.log == nil {
		return nil, fmt.Errorf("record session: %w: no audit log", ErrNoAudit)
	}
	if err := CheckSessionID(session); err != nil {
		return nil, fmt.Errorf("record session: %w: %w", ErrNoAudit, err)
	}
	r := &Recording{
		dir:   filepath.Join(l.stateDir, sessionsDir, session),
		limit: l.opts.RecordingBytes, frames: &l.frames,
		short: &l.recordingsShort,
		began: l.opts.Now(),
	}
	r.opts = record.Options{Now: r.held.clock(l.opts.Now), Admit: r.held.admission(l.floor.admitFrame), Late: r.late}
	if l.opts.Durability == record.Sync {
		// A recording proves what was said; that it was allowed to be said is in
		// the audit log. Once, at the end, will do.
		r.opts.Durability = record.Deferred
	}
	return r, nil
}

// Append takes a frame, which is written within 50 ms; should that fail, Failed is
// told. It keeps nothing of f after it returns.
//
// Once the recording holds as many bytes as it may, a FrameTruncated is
// written and all later frames are dropped without an error: decisions are in
// the audit log all the same. Any error matches [ErrNoAudit], and the session
// must end: all later frames are refused, so that none is missing in between.
func (r *Recording) Append(f Frame) error {
	if r == nil {
		return fmt.Errorf("append frame: %w: no recording", ErrNoAudit)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("append frame: %w: recording is closed", ErrNoAudit)
	}
	if r.failed != nil {
		return r.failed
	}
	if r.truncated {
		return nil
	}
	// A wall clock that was set back must not make frames run backwards.
	f.T = max(0, r.opts.Now().Sub(r.began).Milliseconds())
	for part := range f.split {
		if err := r.write(part); err != nil {
			r.failed = fmt.Errorf("append frame: %w: %w", ErrNoAudit, err)
			return r.failed
		}
		if r.truncated {
			return nil
		}
	}
	return nil
}

// write writes one frame that is within bounds. mu is held.
func (r *Recording) write(f Frame) error {
	if r.size += f.size(); r.size > r.limit {
		r.truncated = true
		f = Frame{T: f.T, Kind: FrameTruncated}
	}
	if r.log == nil {
		return r.hold(f)
	}
	body, ok := r.frames.Get().(*Frame)
	if !ok {
		body = new(Frame)
	}
	*body = f
	_, err := r.log.Later(kindFrame, body)
	*body = Frame{} // what it holds belongs to the caller
	r.frames.Put(body)
	return err
}

// Close ends the recording and returns its anchor for the [SessionEnd]; nil if
// nothing was recorded. Closing again, or closing nil, returns nil.
func (r *Recording) Close() (*Anchor, error) {
	if r == nil {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.log == nil && len(r.held.frames) == 0 {
		r.closed = true
		return nil, nil
	}
	r.closed = true
	err := r.create()
	if r.log == nil {
		return nil, fmt.Errorf("close recording: %w", err)
	}
	err = errors.Join(err, r.log.Flush())
	seq, head := r.log.Head()
	if err == nil && r.opts.Durability == record.Deferred {
		err = r.log.Sync()
	}
	if err = errors.Join(err, r.log.Close()); err != nil {
		return nil, fmt.Errorf("close recording: %w", err)
	}
	return &Anchor{Entries: seq, Head: hex.EncodeToString(head[:]), Truncated: r.truncated}, nil
}

// size is what a frame counts against the recording's bound.
func (f *Frame) size() int64 {
	const overhead = 160 // hash, envelope and keys
	n := overhead + len(f.Text) + len(f.Data)
	for _, c := range f.Columns {
		n += len(c)
	}
	for _, row := range f.Rows {
		for _, cell := range row {
			n += cellSize(cell)
		}
	}
	return int64(n)
}

func cellSize(cell *string) int {
	const overhead = 3
	if cell == nil {
		return overhead + 1
	}
	return overhead + len(*cell)
}

// split yields f in frames that fit into an entry each.
func (f Frame) split(yield func(Frame) bool) {
	if len(f.Text) > 0 && !utf8.ValidString(f.Text) {
		f.Data, f.Text = append([]byte(f.Text), f.Data...), ""
	}
	if len(f.Data) > 0 && len(f.Text) == 0 {
		f.Text, f.Data = textOrBase64(f.Data)
	}
	f.boundColumns()
	for len(f.Text) > maxFrameBytes {
		at := runeStart(f.Text, maxFrameBytes)
		part := f
		part.Text, part.Data, part.Rows, part.More = f.Text[:at], nil, nil, true
		if !yield(part) {
			return
		}
		f.Text, f.Columns = f.Text[at:], nil
	}
	for len(f.Data) > maxFrameBytes {
		part := f
		part.Data, part.Rows, part.More = f.Data[:maxFrameBytes], nil, true
		if !yield(part) {
			return
		}
		f.Text, f.Columns, f.Data = "", nil, f.Data[maxFrameBytes:]
	}
	for {
		n := f.rowsThatFit()
		part := f
		part.Rows, part.More = f.Rows[:n], n < len(f.Rows)
		if !yield(part) || !part.More {
			return
		}
		f.Text, f.Data, f.Columns, f.Rows, f.Cut = "", nil, nil, f.Rows[n:], false
	}
}

// boundColumns cuts names of columns that leave no room for anything else.
func (f *Frame) boundColumns() {
	total := 0
	for i, c := range f.Columns {
		if total += len(c); total > maxFrameBytes/2 || i == maxFrameCells {
			f.Columns, f.Cut = f.Columns[:i:i], true
			return
		}
	}
}

// rowsThatFit returns how many rows go into one frame, at least one. A first
// row that is too long by itself is replaced by one that is cut.
func (f *Frame) rowsThatFit() int {
	room, cells := maxFrameBytes, maxFrameCells
	for i, row := range f.Rows {
		for _, cell := range row {
			room -= cellSize(cell)
			cells--
		}
		if room >= 0 && cells >= 0 {
			continue
		}
		if i == 0 {
			f.cutFirstRow()
			return 1
		}
		return i
	}
	return len(f.Rows)
}

func (f *Frame) cutFirstRow() {
	row := f.Rows[0]
	row = row[:min(len(row), maxFrameCells)]
	limit := max(0, maxFrameBytes/max(1, len(row))-8)
	short := make([]*string, len(row))
	for i, cell := range row {
		short[i] = cell
		if cell != nil && len(*cell) > limit {
			s, _ := bound(strings.ToValidUTF8(*cell, "\ufffd"), limit)
			short[i] = &s
		}
	}
	// The caller's rows stay as they are.
	f.Rows, f.Cut = append([][]*string{short}, f.Rows[1:]...), true
}
