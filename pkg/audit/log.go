package audit

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/pkg/record"
)

// ErrNoAudit means that an event was not recorded. What it was to record must
// not happen. Every failure of [Log.Append] and [Recording.Append] matches it.
var ErrNoAudit = errors.New("not recorded")

const (
	auditDir    = "audit"
	sessionsDir = "sessions"
)

// DefaultRecordingBytes bounds a session's recording unless [Options] say more.
const DefaultRecordingBytes = 64 << 20

// Options configure [OpenLog]. The zero Options are usable.
type Options struct {
	// SegmentBytes is the size of the audit log's segments; zero means
	// record.DefaultSegmentBytes.
	SegmentBytes int64
	// Durability of the audit log. With record.Sync, a recording is synced once,
	// when it is closed.
	Durability record.Durability
	// RecordingBytes bounds what one session's recording holds, in bytes of
	// frames. Zero means DefaultRecordingBytes.
	RecordingBytes int64
	// MinFree is how many bytes the file system of the state directory must
	// have free for what agents cause to be written; see ErrLowDisk. Zero means
	// DefaultMinFree, or a twentieth of the file system if that is less.
	// Negative means that agents may fill the disk.
	MinFree int64
	// Now is the wall clock; nil means time.Now.
	Now func() time.Time
	// Redact takes secrets out of an argument vector, in place or in a copy. It
	// may be called concurrently. Nil means RedactArgv.
	Redact func([]string) []string
}

// Log is the audit log of one daemon. Its methods may be called concurrently.
// A nil Log, like a zero one, refuses everything with [ErrNoAudit].
type Log struct {
	log      *record.Log
	floor    *floor
	stateDir string
	opts     Options
	// recordingsShort is [Recording.short] of them all.
	recordingsShort atomic.Bool
	frames          sync.Pool // of *Frame, for recordings
}

// OpenLog opens the audit log in stateDir for appending and creates it where
// there is none. What a crash left is put in order first; see the package
// comment. A log that was tampered with is not opened ([record.ErrBroken]), nor
// one that another daemon uses ([record.ErrLocked]).
func OpenLog(stateDir string, opts Options) (*Log, error) {
	if opts.RecordingBytes <= 0 {
		opts.RecordingBytes = DefaultRecordingBytes
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Redact == nil {
		opts.Redact = RedactArgv
	}
	opts.Redact = (&redactions{redact: opts.Redact}).of
	f := &floor{min: opts.MinFree, disk: func() (free, total uint64, err error) { return diskOf(stateDir) }}
	log, recovery, err := record.Open(filepath.Join(stateDir, auditDir), record.Options{
		SegmentBytes: opts.SegmentBytes,
		Durability:   opts.Durability,
		Now:          opts.Now,
		Admit:        f.admit,
	})
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	l := &Log{log: log, floor: f, stateDir: stateDir, opts: opts}
	if err := l.recover(recovery); err != nil {
		return nil, fmt.Errorf("open audit log: %w", errors.Join(err, l.Close()))
	}
	return l, nil
}

// Append records one event and returns once it is as durable as
// [Options].Durability says, but for a [Result], which is so within 50 ms. body is the struct that belongs to kind, or for
// kinds that are not of this package anything that encoding/json takes. Long
// texts are cut and flagged, and argument vectors redacted, in a copy.
//
// An error matches [ErrNoAudit]: the caller must not act. A shortage of disk or
// descriptors ([ErrLowDisk], ENOSPC, EMFILE, …) refuses this event only, and
// the next call is a new attempt; after [record.ErrFailed] the log takes nothing
// more until it is opened again.
func (l *Log) Append(kind string, body any) error {
	write := (*record.Log).Append
	if kind == KindResult {
		write = (*record.Log).Later // it tells of what is over
	}
	_, err := l.append(kind, body, write)
	return err
}

// Announce is Append that waits for no fsync. The caller must not act, nor let anybody
// else act, before [Log.Settle] has returned nil for the number that it returns: what
// leads to one action can be announced piece by piece, and settled once.
func (l *Log) Announce(kind string, body any) (seq uint64, err error) {
	return l.append(kind, body, (*record.Log).Write)
}

// Settle returns once the event with the number that [Log.Announce] returned, and all
// before it, are as durable as [Options].Durability says. An error matches
// [ErrNoAudit]: the caller must not act.
func (l *Log) Settle(seq uint64) error {
	if l == nil || l.log == nil {
		return fmt.Errorf("settle event: %w: no audit log", ErrNoAudit)
	}
	if err := l.log.Commit(seq); err != nil {
		return fmt.Errorf("settle event: %w: %w", ErrNoAudit, err)
	}
	return nil
}

// append records one event with one of the log's functions, and returns its number.
func (l *Log) append(kind string, body any, write func(*record.Log, string, any) (record.Entry, error)) (uint64, error) {
	if l == nil || l.log == nil {
		return 0, fmt.Errorf("append %s: %w: no audit log", kind, ErrNoAudit)
	}
	if e, ok := body.(event); ok {
		if e.kind() != kind {
			return 0, fmt.Errorf("append %s: %w: the body is a %s", kind, ErrNoAudit, e.kind())
		}
		if copied, changed := e.prepared(l.opts.Redact); changed {
			body = copied
		}
	}
	e, err := write(l.log, kind, body)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoAudit, err)
	}
	return e.Seq, nil
}

// Head returns the number of the last event and the hash of its line, to be
// kept on another host.
func (l *Log) Head() (seq uint64, hash [32]byte) {
	if l == nil {
		return 0, hash
	}
	return l.log.Head()
}

// Err returns nil if nothing is known that keeps events of agents from being
// recorded. Otherwise it returns why they are not, and so why everything is
// denied now; the error matches [ErrNoAudit]. It looks at the disk at most once
// a second; other shortages it knows from the last event that was refused.
func (l *Log) Err() error {
	if l == nil || l.log == nil {
		return fmt.Errorf("%w: no audit log", ErrNoAudit)
	}
	err := l.log.Err()
	if err == nil {
		err = l.floor.now(l.opts.Now())
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoAudit, err)
	}
	return nil
}

// Close ends the log. Later appends fail.
func (l *Log) Close() error {
	if l == nil || l.log == nil {
		return ErrNoAudit
	}
	return l.log.Close()
}

// recover writes down what a crash left unsaid.
func (l *Log) recover(r record.Recovery) error {
	if r.TornBytes > 0 {
		if err := l.Append(KindRecovered, Recovered{File: r.File, Bytes: r.TornBytes}); err != nil {
			return err
		}
	}
	if r.JournalBytes > 0 {
		if err := l.Append(KindRecovered, Recovered{File: "journal", Bytes: r.JournalBytes}); err != nil {
			return err
		}
	}
	open, err := unended(filepath.Join(l.stateDir, auditDir))
	if err != nil {
		return fmt.Errorf("find open sessions: %w", err)
	}
	for _, s := range open {
		end := SessionEnd{Session: s.id, Reason: ReasonDaemonStopped, Synthetic: true}
		end.DurationMS = max(0, s.last.Sub(s.opened).Milliseconds())
		end.Recording, err = l.anchorLeft(s.id)
		if err != nil {
			end.RecordingError = err.Error()
		}
		if err := l.Append(KindSessionEnd, end); err != nil {
			return err
		}
	}
	return l.Append(KindLogOpen, LogOpen{SessionsEnded: len(open)})
}

// anchorLeft anchors the recording of a session that never ended.
func (l *Log) anchorLeft(id string) (*Anchor, error) {
	dir, err := recordingDir(l.stateDir, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	log, _, err := record.Open(dir, record.Options{Now: l.opts.Now})
	if err != nil {
		return nil, err
	}
	seq, hash := log.Head()
	err = log.Sync()
	if err = errors.Join(err, log.Close()); err != nil {
		return nil, err
	}
	return &Anchor{Entries: seq, Head: hex.EncodeToString(hash[:])}, nil
}

// recordingDir returns the directory of a session's recording. Its error is
// [fs.ErrNotExist] where there is none.
func recordingDir(stateDir, id string) (string, error) {
	if err := CheckSessionID(id); err != nil {
		return "", err
	}
	root, err := os.OpenRoot(filepath.Join(stateDir, sessionsDir))
	if err != nil {
		return "", err
	}
	info, err := root.Lstat(id)
	if err = errors.Join(err, root.Close()); err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fmt.Errorf("recording %s: not a directory", id)
	}
	return filepath.Join(stateDir, sessionsDir, id), nil
}

// openSession is a session that has no end in the log.
type openSession struct {
	id           string
	opened, last time.Time
}

// unended returns the sessions without an end, oldest first. It reads the log
// backwards, segment by segment, up to the last LogOpen.
func unended(dir string) ([]openSession, error) {
	segment, err := record.Segments(dir)
	if err != nil {
		return nil, err
	}
	ended := map[string]bool{}
	var open []openSession
	last := map[string]time.Time{}
	before := uint64(0) // seq of the first entry of the segment that follows
	for found := false; segment > 0 && !found; segment-- {
		var here []openSession
		first := uint64(0)
		for e, err := range record.ReadFrom(dir, segment) {
			if err != nil {
				return nil, err
			}
			if before > 0 && e.Seq >= before {
				break
			}
			if first == 0 {
				first = e.Seq
			}
			if e.Kind == KindLogOpen {
				// Everything before it has ended.
				found = true
				continue
			}
			here, err = note(here, e, ended, last)
			if err != nil {
				return nil, err
			}
		}
		if first > 0 {
			before = first
		}
		open = append(here, open...)
	}
	open = slices.DeleteFunc(open, func(s openSession) bool { return ended[s.id] })
	for i := range open {
		open[i].last = last[open[i].id]
	}
	return open, nil
}

// note takes down what an entry says about the sessions that are open.
func note(open []openSession, e record.Entry, ended map[string]bool, last map[string]time.Time) ([]openSession, error) {
	switch e.Kind {
	case KindSessionOpen, KindSessionEnd, KindDecision, KindResult, KindFinding:
	default:
		return open, nil
	}
	var body struct {
		Session string `json:"session"`
	}
	if err := json.Unmarshal(e.Body, &body); err != nil {
		return nil, fmt.Errorf("entry %d: %w", e.Seq, err)
	}
	if e.Time.After(last[body.Session]) {
		last[body.Session] = e.Time
	}
	switch e.Kind {
	case KindSessionOpen:
		open = append(open, openSession{id: body.Session, opened: e.Time})
	case KindSessionEnd:
		ended[body.Session] = true
	}
	return open, nil
}
