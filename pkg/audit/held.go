package audit

import (
	"fmt"
	"time"

	"github.com/headgate/headgate/pkg/record"
)

const (
	// heldFor is how long the first frames of a recording may wait for the rest of
	// it to be created.
	heldFor = 50 * time.Millisecond
	// heldBytes is from how many bytes on they wait no longer.
	heldBytes = 16 << 10
)

// held are the first frames of a recording of which nothing is on disk yet. The
// recording's mutex guards it.
type held struct {
	frames []heldFrame
	bytes  int
	timer  *time.Timer
	// writing is the frame that is being written, if one is.
	writing *heldFrame
}

// heldFrame is a frame as it is written, and when it was taken and admitted.
type heldFrame struct {
	json []byte
	at   time.Time
}

// AppendJSON is for package record.
func (f *heldFrame) AppendJSON(b []byte) []byte { return append(b, f.json...) }

// clock returns now, and while a held frame is written, the time of that.
func (h *held) clock(now func() time.Time) func() time.Time {
	return func() time.Time {
		if h.writing != nil {
			return h.writing.at
		}
		return now()
	}
}

// admission returns admit, but for frames that were asked about already.
func (h *held) admission(admit func(e record.Entry, size, ahead int64) error) func(e record.Entry, size, ahead int64) error {
	return func(e record.Entry, size, ahead int64) error {
		if h.writing != nil {
			return nil
		}
		return admit(e, size, ahead)
	}
}

// hold keeps a frame until the recording is created. Where the last one could not
// be, that is tried at once: nothing happens in a session that can't be recorded.
// mu is held.
func (r *Recording) hold(f Frame) error {
	frame := heldFrame{json: f.AppendJSON(nil), at: r.opts.Now()}
	if err := r.opts.Admit(record.Entry{Kind: kindFrame, Time: frame.at}, f.size(), 0); err != nil {
		return err
	}
	h := &r.held
	h.frames, h.bytes = append(h.frames, frame), h.bytes+len(frame.json)
	if h.bytes >= heldBytes || r.short.Load() {
		return r.create()
	}
	if h.timer == nil {
		h.timer = time.AfterFunc(heldFor, r.lapse)
	}
	return nil
}

// create creates the recording and writes what is held, unless it exists. After an
// error the recording is good for nothing but Close. mu is held, and frames are.
func (r *Recording) create() error {
	if r.log != nil {
		return nil
	}
	h := &r.held
	if h.timer != nil {
		h.timer.Stop()
	}
	defer func() { h.writing = nil }()
	h.writing = &h.frames[0] // its time is that of the beginning, too
	log, err := record.Create(r.dir, r.opts)
	r.short.Store(err != nil)
	if err != nil {
		return err
	}
	r.log = log
	for i := range h.frames {
		h.writing = &h.frames[i]
		if _, err := log.Later(kindFrame, h.writing); err != nil {
			return err
		}
	}
	h.frames = nil
	return nil
}

// lapse creates the recording when its first frames have waited long enough.
func (r *Recording) lapse() {
	r.overdue(func() error {
		if err := r.create(); err != nil || r.log == nil {
			return err
		}
		return r.log.Flush()
	})
}

// late is [record.Options].Late of the recording: what was taken is not written.
func (r *Recording) late(cause error) { r.overdue(func() error { return cause }) }

// overdue calls write, with mu held, unless there is nothing to write any more. If
// it fails, a frame is missing, and the recording takes no later one.
func (r *Recording) overdue(write func() error) {
	r.mu.Lock()
	var err error
	if !r.closed && r.failed == nil {
		err = write()
	}
	if err != nil {
		err = fmt.Errorf("write frames: %w: %w", ErrNoAudit, err)
		r.failed = err
	}
	r.mu.Unlock()
	if err != nil && r.Failed != nil {
		r.Failed(err)
	}
}
