package audit

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/headgate/headgate/pkg/record"
)

// ErrRecording means that a recording is not the one that the audit log
// anchored: it was changed, cut, prolonged or removed.
var ErrRecording = errors.New("recording is not what was recorded")

// VerifyReport is what [Verify] found.
type VerifyReport struct {
	// Events counts the good events of the audit log; Head is the hash of the
	// last one, in hexadecimal, to be compared with a copy kept elsewhere.
	Events uint64 `json:"events"`
	Head   string `json:"head"`
	// Sessions counts the sessions, Open those without an end, and Recordings
	// the recordings that were found good.
	Sessions   int `json:"sessions"`
	Open       int `json:"open"`
	Recordings int `json:"recordings"`
	// Problems is empty if nobody edited anything.
	Problems []Problem `json:"problems"`
}

// Problem is one thing that is not what was once written.
type Problem struct {
	// Session is empty for the audit log itself.
	Session string
	// Err says what and where. It may match [record.ErrBroken] or
	// [ErrRecording].
	Err error
}

// String returns "audit: …" or "session <id>: …".
func (p Problem) String() string {
	if p.Session == "" {
		return fmt.Sprintf("audit: %v", p.Err)
	}
	return fmt.Sprintf("session %.80q: %v", p.Session, p.Err)
}

// MarshalText returns what String does.
func (p Problem) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// OK reports whether nothing was found wrong. A nil report is not OK.
func (r *VerifyReport) OK() bool { return r != nil && len(r.Problems) == 0 }

// Verify recomputes the audit log in stateDir and every recording, and compares
// the recordings with their anchors. What was tampered with is in the report;
// the error is for what could not be read. Beside a running daemon it covers
// what was written when it began.
func Verify(stateDir string) (*VerifyReport, error) {
	// The list comes first: a session that begins meanwhile is then in the log
	// but not in the list, which is no problem.
	recordings, err := listRecordings(stateDir)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	x := index{byID: map[string]*SessionSummary{}}
	readErr := x.read(stateDir)
	r := &VerifyReport{Problems: x.anomalies}
	if errors.Is(readErr, record.ErrBroken) {
		r.Problems = append([]Problem{{Err: readErr}}, r.Problems...)
	} else if readErr != nil {
		return nil, fmt.Errorf("verify: %w", readErr)
	}
	r.Events, r.Head, r.Sessions = x.seq, hex.EncodeToString(x.head[:]), len(x.order)
	for _, s := range x.order {
		if s.End == nil {
			r.Open++
		}
		found, err := verifyRecording(stateDir, s)
		switch {
		case err != nil:
			r.Problems = append(r.Problems, Problem{Session: s.ID, Err: err})
		case found:
			r.Recordings++
		}
	}
	for _, id := range recordings {
		// Behind a break of the audit log, sessions are missing anyway.
		if x.byID[id] == nil && readErr == nil {
			r.Problems = append(r.Problems, Problem{Session: id, Err: errors.New("recording of a session that the audit log does not know")})
		}
	}
	return r, nil
}

// VerifySession checks one session's recording against its anchor, and the
// audit log as far as it has to be read for that. It returns nil for a good
// one, also if there is rightly none.
func VerifySession(stateDir, id string) error {
	if err := CheckSessionID(id); err != nil {
		return err
	}
	x := index{byID: map[string]*SessionSummary{}, only: id}
	if err := x.read(stateDir); err != nil {
		return err
	}
	s := x.byID[id]
	if s == nil {
		return fmt.Errorf("session %s: %w", id, ErrNoSession)
	}
	if _, err := verifyRecording(stateDir, s); err != nil {
		return fmt.Errorf("session %s: %w", id, err)
	}
	if len(x.anomalies) > 0 {
		return fmt.Errorf("session %s: %w", id, x.anomalies[0].Err)
	}
	return nil
}

// verifyRecording checks the chain and the anchor of a session's recording, and
// reports whether there is one.
func verifyRecording(stateDir string, s *SessionSummary) (found bool, err error) {
	dir, err := recordingDir(stateDir, s.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return false, checkAnchor(s, 0, [32]byte{})
	}
	if err != nil {
		return false, err
	}
	report, err := record.Verify(dir)
	if errors.Is(err, fs.ErrNotExist) {
		// The directory is there before its first segment, and stays if that
		// could not be created.
		return false, checkAnchor(s, 0, [32]byte{})
	}
	if err != nil {
		return true, err
	}
	if report.TornBytes > 0 && s.End != nil {
		return true, fmt.Errorf("%w: %d bytes follow its last line", ErrRecording, report.TornBytes)
	}
	return true, checkAnchor(s, report.Seq, report.Head)
}

// checkAnchor compares a recording's head with what the session's end says. A
// session without an end has no anchor yet.
func checkAnchor(s *SessionSummary, entries uint64, head [32]byte) error {
	switch {
	case s.End == nil:
		return nil
	case s.End.RecordingError != "":
		return fmt.Errorf("%w: it had no anchor from the beginning: %.200q", ErrRecording, s.End.RecordingError)
	case s.End.Recording == nil && entries == 0:
		return nil
	case s.End.Recording == nil:
		return fmt.Errorf("%w: %d entries, but none were anchored", ErrRecording, entries)
	case entries == 0 && s.End.Recording.Entries > 0:
		return fmt.Errorf("%w: all %d entries are missing", ErrRecording, s.End.Recording.Entries)
	case s.End.Recording.Entries != entries:
		return fmt.Errorf("%w: %d entries, %d were anchored", ErrRecording, entries, s.End.Recording.Entries)
	case s.End.Recording.Head != hex.EncodeToString(head[:]) && entries > 0:
		return fmt.Errorf("%w: head %x, %.64q was anchored", ErrRecording, head, s.End.Recording.Head)
	}
	return nil
}

// listRecordings returns the names of the recordings' directories. Names that
// are no session ids do not belong there and are returned as well.
func listRecordings(stateDir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(stateDir, sessionsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}
