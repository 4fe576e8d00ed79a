package gateway

import (
	"errors"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

// recordOpen writes down that the session exists and who is behind it.
func (s *session) recordOpen() error {
	lineage, partial := audit.Lineage(s.Process)
	err := s.gateway.Audit.Append(audit.KindSessionOpen, audit.SessionOpen{
		Session:        s.ID,
		Agent:          s.agent,
		Origin:         s.Downstream.Origin,
		Lineage:        lineage,
		LineagePartial: partial,
		Principal:      s.Principal,
		Resource:       s.Resource.Name,
		Names:          s.names,
		NameSource:     s.nameSource,
	})
	s.recorded = err == nil
	return err
}

// recordEnd writes down how the session ended. A session that ended before
// anybody was found behind it gets its beginning here, so that none is unheard of.
func (s *session) recordEnd(reason string, cause error) error {
	if !s.recorded {
		if err := s.recordOpen(); err != nil {
			return err
		}
	}
	end := audit.SessionEnd{
		Session:    s.ID,
		Reason:     reason,
		BytesUp:    uint64(max(0, s.up.Load())),
		BytesDown:  uint64(max(0, s.down.Load())),
		DurationMS: time.Since(s.start).Milliseconds(),
	}
	if cause != nil {
		end.Stage, end.Error = stageOf(cause, s.stage), cause.Error()
	}
	if s.record != nil {
		anchor, err := s.record.Close()
		if err != nil {
			end.RecordingError = err.Error()
		}
		end.Recording = anchor
	}
	err := s.gateway.Audit.Append(audit.KindSessionEnd, end)
	s.ended = err == nil
	return err
}

// events are those that are not being written. There are two for each operation.
type events struct {
	decisions, results sync.Pool
}

// recordDecision writes down a decision before anybody acts on it.
func (s *session) recordDecision(id string, d *policy.Decision, op *policy.Operation, denial *protocol.Denial) error {
	event, ok := s.gateway.events.decisions.Get().(*audit.Decision)
	if !ok {
		event = new(audit.Decision)
	}
	*event = audit.DecisionOf(op, *d)
	event.Session, event.Op, event.Stage = s.ID, id, s.stage
	if denial != nil {
		event.Verdict, event.Rule, event.Reason = policy.Deny.String(), denial.Rule, denial.Reason
		if denial.Reason == protocol.ReasonLimit || denial.Reason == protocol.ReasonMask {
			event.Message = denial.Detail // the rule that allows says nothing about this
		}
	}
	var err error
	if denial == nil && s.dialled.Load() {
		err = s.announce(event)
	} else {
		err = s.gateway.Audit.Append(audit.KindDecision, event)
	}
	*event = audit.Decision{} // it would keep a statement in memory
	s.gateway.events.decisions.Put(event)
	return err
}

// announce writes down what is allowed on a connection to the target, which lets no byte
// pass before it is as durable as it must be: a flight of messages that several
// decisions are about waits for the disk once.
func (s *session) announce(decision *audit.Decision) error {
	seq, err := s.gateway.Audit.Announce(audit.KindDecision, decision)
	if err != nil {
		return err
	}
	for {
		known := s.announced.Load()
		if known >= seq || s.announced.CompareAndSwap(known, seq) {
			return nil
		}
	}
}

// settle returns once everything that was announced is as durable as it must be. Its
// error is a denial, since nothing of that may happen.
func (s *session) settle() error {
	seq := s.announced.Load()
	if seq <= s.settled.Load() {
		return nil
	}
	if err := s.gateway.Audit.Settle(seq); err != nil {
		s.Log.Error().Err(err).Uint64("event", seq).Msg("decisions not recorded")
		return &protocol.Denial{ID: s.ID, Rule: policy.DefaultRule, Reason: protocol.ReasonAudit}
	}
	s.settled.Store(seq) // a lower number, of somebody who was faster, only asks again
	return nil
}

// recordFrame is what protocols record with. Frames go to the session's
// recording, but for the outcome of an operation, which goes to the audit log.
func (s *session) recordFrame(f protocol.Frame) error {
	if s.record == nil {
		return errors.New("record frame: the session has no recording")
	}
	if f.Outcome != nil {
		if err := s.recordOutcome(f.Op, f.Outcome); err != nil {
			return err
		}
	}
	if f.Finding != nil {
		if err := s.recordFinding(f.Finding); err != nil {
			return err
		}
	}
	if s.NoTables && f.Kind == protocol.FrameTable || s.opaque() && f.Finding == nil {
		return nil
	}
	if frame, ok := frameOf(&f); ok {
		return s.record.Append(frame)
	}
	return nil
}

// opaque reports whether nobody looks into the session's bytes. There is nothing to
// play then, and no recording: that it was let through unread, for how long, and
// how many bytes, is in the audit log.
func (s *session) opaque() bool {
	return s.proto != nil && s.proto.Name() == s.gateway.Opaque.Name()
}

// recordFinding writes down that a secret was where it should not be.
func (s *session) recordFinding(f *protocol.Finding) error {
	s.gateway.Metrics.Finding(s.proto.Name(), string(f.Kind))
	s.Log.Warn().Str("finding", string(f.Kind)).Str("credential", f.Credential).Str("fingerprint", f.Fingerprint).Msg("secret is out")
	return s.gateway.Audit.Append(audit.KindFinding, audit.Finding{
		Session: s.ID, Kind: string(f.Kind), Credential: f.Credential, Fingerprint: f.Fingerprint,
	})
}

// maskedAny is the detector of values of which a protocol does not tell what
// they were masked for.
const maskedAny = "any"

func (s *session) recordOutcome(op string, o *protocol.Outcome) error {
	result, ok := s.gateway.events.results.Get().(*audit.Result)
	if !ok {
		result = new(audit.Result)
	}
	*result = audit.Result{
		Session: s.ID, Op: op, Outcome: audit.OutcomeOK,
		Rows: o.Rows, Bytes: o.Bytes, Tag: o.Tag, Code: o.Code, Error: o.Error, Masked: o.Masked,
	}
	if o.Code != "" || o.Error != "" {
		result.Outcome = audit.OutcomeError
	}
	if s.proto != nil {
		if o.Detected == nil {
			s.gateway.Metrics.Masked(s.proto.Name(), maskedAny, int(min(o.Masked, 1<<31)))
		}
		for detector, n := range o.Detected {
			s.gateway.Metrics.Masked(s.proto.Name(), detector, int(min(n, 1<<31)))
		}
	}
	err := s.gateway.Audit.Append(audit.KindResult, result)
	*result = audit.Result{}
	s.gateway.events.results.Put(result)
	return err
}

// frameOf returns what the recording has of a frame, if anything. How an operation
// ended is in the audit log; it is in the recording, too, if that could not be kept
// there as it was.
func frameOf(f *protocol.Frame) (frame audit.Frame, ok bool) {
	frame = audit.Frame{Op: f.Op, Direction: audit.Down}
	switch f.Kind {
	case protocol.FrameTable:
		frame.Kind, frame.Columns, frame.Rows = audit.FrameRows, f.Columns, f.Rows
	case protocol.FrameNotice:
		frame.Kind, frame.Text = audit.FrameNotice, f.Text
	case protocol.FrameFinding:
		if f.Finding == nil {
			return audit.Frame{}, false
		}
		frame.Kind, frame.Direction = audit.FrameNotice, ""
		frame.Text = fmt.Sprintf("%s: credential %s, fingerprint %s", f.Finding.Kind, f.Finding.Credential, f.Finding.Fingerprint)
	case protocol.FrameResult:
		switch {
		case f.Outcome == nil || whole(f.Outcome.Tag) && whole(f.Outcome.Code) && whole(f.Outcome.Error):
			return audit.Frame{}, false // the audit log has all of it
		case f.Outcome.Code != "" || f.Outcome.Error != "":
			frame.Kind, frame.Text = audit.FrameError, f.Outcome.Code+" "+f.Outcome.Error
		default:
			frame.Kind, frame.Text = audit.FrameTag, f.Outcome.Tag
		}
	default:
		frame.Kind, frame.Text = audit.FrameData, f.Text
	}
	return frame, true
}

// whole reports whether an event keeps all of a word: it cuts long ones, and has no
// place for bytes that are no text.
func whole(word string) bool { return len(word) <= audit.MaxWord && utf8.ValidString(word) }
