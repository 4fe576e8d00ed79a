package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/record"
	"github.com/headgate/headgate/pkg/transparent"
)

// ErrNoSession means that the audit log knows no session of that id.
var ErrNoSession = errors.New("no such session")

// Filter selects sessions. Its zero value selects all.
type Filter struct {
	// Since and Until bound when a session was opened: from Since on, before
	// Until. Zero means no bound.
	Since, Until time.Time
	// Agent is the agent's name, Principal what identity.Principal.String
	// returns, Resource the resource's name. Empty means any.
	Agent, Principal, Resource string
	// Denied selects sessions in which something was denied, or would have been.
	Denied bool
	// Limit keeps only the newest sessions. Zero means no limit.
	Limit int
}

// SessionSummary is what the events of one session add up to.
type SessionSummary struct {
	ID        string             `json:"id"`
	Agent     string             `json:"agent"`
	Principal identity.Principal `json:"principal"`
	Origin    transparent.Origin `json:"origin"`
	// Names and NameSource are those of the [SessionOpen].
	Names      []string `json:"names,omitempty"`
	NameSource string   `json:"name_source,omitempty"`
	// Exe is the executable that connected.
	Exe      string    `json:"exe,omitempty"`
	Protocol string    `json:"protocol,omitempty"`
	Resource string    `json:"resource,omitempty"`
	Opened   time.Time `json:"opened"`
	// Ended is zero for a session that goes on, or went on when the daemon died.
	Ended time.Time `json:"ended,omitzero"`
	// Decisions counts the decisions, and the others those among them that
	// denied, held, or would have done either in enforce mode.
	Decisions int `json:"decisions"`
	Denied    int `json:"denied"`
	Held      int `json:"held"`
	WouldHave int `json:"would_have"`
	// Masked counts masked values.
	Masked uint64 `json:"masked"`
	// End is nil as long as Ended is zero.
	End *SessionEnd `json:"end,omitempty"`
}

// Event is one entry of the audit log. Body is the JSON of the kind's struct.
type Event struct {
	Seq  uint64          `json:"seq"`
	Time time.Time       `json:"time"`
	Kind string          `json:"kind"`
	Body json.RawMessage `json:"body"`
}

// SessionDetail is everything that is known of one session.
type SessionDetail struct {
	Summary SessionSummary  `json:"summary"`
	Open    SessionOpen     `json:"open"`
	Events  []Event         `json:"events"`
	Frames  []RecordedFrame `json:"frames"`
	// Recording is nil if the recording is what was recorded, or if there is
	// none and none is missed. Otherwise it says what is wrong with it.
	Recording error `json:"-"`
}

// RecordedFrame is a frame with its place in the recording.
type RecordedFrame struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	Frame
}

// Sessions returns the sessions that the audit log in stateDir knows and that
// the filter selects, in the order in which they were opened. It needs no
// daemon and may run beside one. Where the log is broken it returns what came
// before, with the error.
func Sessions(stateDir string, f Filter) ([]SessionSummary, error) {
	x := index{byID: map[string]*SessionSummary{}}
	err := x.read(stateDir)
	var out []SessionSummary
	for _, s := range x.order {
		if f.selects(s) {
			out = append(out, *s)
		}
	}
	if f.Limit > 0 && len(out) > f.Limit {
		out = slices.Delete(out, 0, len(out)-f.Limit)
	}
	return out, err
}

// Session returns what is known of one session. Its error is [ErrNoSession],
// [ErrSessionID], or what makes the audit log unreadable; what is wrong with
// the recording is in the detail.
func Session(stateDir, id string) (*SessionDetail, error) {
	if err := CheckSessionID(id); err != nil {
		return nil, err
	}
	x := index{byID: map[string]*SessionSummary{}, only: id}
	if err := x.read(stateDir); err != nil {
		return nil, err
	}
	s := x.byID[id]
	if s == nil {
		return nil, fmt.Errorf("session %s: %w", id, ErrNoSession)
	}
	d := &SessionDetail{Summary: *s, Open: x.open, Events: x.events}
	d.Frames, d.Recording = readRecording(stateDir, s)
	return d, nil
}

func (f *Filter) selects(s *SessionSummary) bool {
	return !s.Opened.Before(f.Since) &&
		(f.Until.IsZero() || s.Opened.Before(f.Until)) &&
		(f.Agent == "" || f.Agent == s.Agent) &&
		(f.Principal == "" || f.Principal == s.Principal.String()) &&
		(f.Resource == "" || f.Resource == s.Resource) &&
		(!f.Denied || s.Denied > 0 || s.WouldHave > 0)
}

// index collects sessions from the audit log.
type index struct {
	only   string // the one session of interest; empty means all
	byID   map[string]*SessionSummary
	order  []*SessionSummary
	open   SessionOpen // of only
	events []Event     // of only
	seq    uint64
	head   [32]byte
	// anomalies are events that cannot be told by the chain, and yet a daemon
	// does not write: an end without a beginning, two ends.
	anomalies []Problem
}

// read goes through the audit log. An unfinished last line is no error: a
// daemon may be writing it.
func (x *index) read(stateDir string) error {
	for e, err := range record.Read(filepath.Join(stateDir, auditDir)) {
		if errors.Is(err, record.ErrTorn) {
			return nil
		}
		if err != nil {
			return err
		}
		x.seq, x.head = e.Seq, e.Hash
		if err := x.add(e); err != nil {
			return fmt.Errorf("audit entry %d: %w", e.Seq, err)
		}
	}
	return nil
}

func (x *index) add(e record.Entry) error {
	var body struct {
		Session string `json:"session"`
	}
	switch e.Kind {
	case KindSessionOpen, KindDecision, KindResult, KindFinding, KindSessionEnd:
	default:
		// Kinds of others may hold a session too, but need not be objects.
		if x.only == "" || json.Unmarshal(e.Body, &body) != nil || body.Session != x.only {
			return nil
		}
	}
	if body.Session == "" {
		if err := json.Unmarshal(e.Body, &body); err != nil {
			return err
		}
	}
	if x.only != "" {
		if body.Session != x.only {
			return nil
		}
		x.events = append(x.events, Event{Seq: e.Seq, Time: e.Time, Kind: e.Kind, Body: e.Body})
	}
	if e.Kind == KindSessionOpen {
		return x.begin(e)
	}
	s := x.byID[body.Session]
	if s == nil {
		x.anomaly(body.Session, "%s without a session_open", e.Kind)
		return nil
	}
	return x.update(s, e)
}

func (x *index) begin(e record.Entry) error {
	var open SessionOpen
	if err := json.Unmarshal(e.Body, &open); err != nil {
		return err
	}
	if x.byID[open.Session] != nil {
		x.anomaly(open.Session, "opened twice")
		return nil
	}
	s := &SessionSummary{
		ID: open.Session, Agent: open.Agent, Principal: open.Principal, Origin: open.Origin, Names: open.Names, NameSource: open.NameSource,
		Protocol: open.Protocol, Resource: open.Resource, Opened: e.Time,
	}
	if len(open.Lineage) > 0 {
		s.Exe = open.Lineage[0].Exe
	}
	if x.only != "" {
		x.open = open
	}
	x.byID[s.ID] = s
	x.order = append(x.order, s)
	return nil
}

func (x *index) update(s *SessionSummary, e record.Entry) error {
	switch e.Kind {
	case KindDecision:
		// Only what is counted; texts can be long.
		var d struct {
			Verdict   string `json:"verdict"`
			WouldHave string `json:"would_have"`
			Resource  string `json:"resource"`
			Operation struct {
				Protocol string `json:"protocol"`
			} `json:"operation"`
		}
		if err := json.Unmarshal(e.Body, &d); err != nil {
			return err
		}
		s.count(d.Verdict, d.WouldHave)
		if s.Resource == "" {
			s.Resource = d.Resource
		}
		if s.Protocol == "" {
			s.Protocol = d.Operation.Protocol
		}
	case KindResult:
		var r Result
		if err := json.Unmarshal(e.Body, &r); err != nil {
			return err
		}
		s.Masked += r.Masked
	case KindSessionEnd:
		if s.End != nil {
			x.anomaly(s.ID, "ended twice")
			return nil
		}
		s.End, s.Ended = new(SessionEnd), e.Time
		return json.Unmarshal(e.Body, s.End)
	}
	return nil
}

func (s *SessionSummary) count(verdict, wouldHave string) {
	s.Decisions++
	switch verdict {
	case policy.Allow.String():
	case policy.Approve.String():
		s.Held++
	default:
		s.Denied++
	}
	if wouldHave != "" && wouldHave != policy.Allow.String() {
		s.WouldHave++
	}
}

func (x *index) anomaly(session, format string, args ...any) {
	x.anomalies = append(x.anomalies, Problem{Session: session, Err: fmt.Errorf(format, args...)})
}

// readRecording returns a session's frames, and what is wrong with them.
func readRecording(stateDir string, s *SessionSummary) ([]RecordedFrame, error) {
	dir, err := recordingDir(stateDir, s.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, checkAnchor(s, 0, [32]byte{})
	}
	if err != nil {
		return nil, err
	}
	var frames []RecordedFrame
	var seq uint64
	var head [32]byte
	for e, err := range record.Read(dir) {
		// A running session's recording may be about to be written. Without a
		// segment there is none, as without its directory.
		if s.End == nil && errors.Is(err, record.ErrTorn) || errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return frames, err
		}
		seq, head = e.Seq, e.Hash
		f := RecordedFrame{Seq: e.Seq, Time: e.Time}
		if err := json.Unmarshal(e.Body, &f.Frame); err != nil {
			return frames, fmt.Errorf("frame %d: %w", e.Seq, err)
		}
		frames = append(frames, f)
	}
	return frames, checkAnchor(s, seq, head)
}
