package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/metrics"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
)

// serve is the life of one mediated connection. It owns c. A panic in a stage
// ends this session alone: denied, recorded, and logged with its stack.
//
// A connection waits in here for as long as nobody says anything, so what only its
// beginning needs is on a stack that admit has left by then.
func (g *Gateway) serve(ctx context.Context, c *transparent.Conn) (err error) {
	ctx, end := context.WithCancelCause(ctx)
	s := g.open(c, end)
	defer s.finish(&err)
	if err = g.admit(ctx, s); err == nil {
		err = s.proto.Serve(ctx, &s.Session)
	}
	return err
}

// finish, deferred, closes a session that ended with *err or panics, and adds to
// *err.
func (s *session) finish(err *error) {
	protocol.Caught(recover(), err)
	defer s.end(nil)
	closed := protocol.Guard(func() error { return s.close(at(s.stage, *err)) })
	if *err = closed; !s.ended {
		s.gateway.unrecorded.Add(1)
	}
	if closed != nil {
		s.gateway.Log.Debug().Err(closed).Msg("session ended with an error")
	}
}

// admit takes a connection through the stages before the exchange, in order; an
// error names the stage at which it stopped.
func (g *Gateway) admit(ctx context.Context, s *session) error {
	s.lookUpNames()
	who, err := g.attribute(ctx, s.Downstream.Origin)
	if err != nil {
		return s.turnAway(at(metrics.StageAttribute, err))
	}
	if err := s.begin(who, g.Principals.Of(who.Root)); err != nil {
		return s.turnAway(at(metrics.StageIdentify, err))
	}
	proto, err := g.detect(ctx, s)
	if err != nil {
		return s.turnAway(at(metrics.StageDetect, err))
	}
	s.speak(proto)
	ruling, err := s.decide(ctx, connectTo(proto))
	if err != nil {
		return at(metrics.StageDecide, s.refuse(ctx, err))
	}
	if err := s.admit(ctx, ruling); err != nil {
		return at(metrics.StageDecide, s.refuse(ctx, err))
	}
	return nil
}

// stageError says at which stage a session stopped.
type stageError struct {
	stage string
	err   error
}

func (e *stageError) Error() string { return fmt.Sprintf("%s: %v", e.stage, e.err) }
func (e *stageError) Unwrap() error { return e.err }

// at returns err as one of that stage, unless it says itself of which it is.
func at(stage string, err error) error {
	var known *stageError
	if err == nil || errors.As(err, &known) {
		return err
	}
	return &stageError{stage, err}
}

// attribute finds who made the connection. The kernel's record alone says which
// tree and which agent; without the process's image and ancestors it would not
// be known who in the tree it was, and then it is denied.
func (g *Gateway) attribute(ctx context.Context, origin transparent.Origin) (*process.Process, error) {
	wait, cancel := context.WithTimeout(ctx, g.Limits.Attribute)
	defer cancel()
	p, err := g.Processes.Wait(wait, origin.Process, origin.Exec)
	if err != nil && g.Seed != nil {
		var seedErr error
		if p, seedErr = g.Seed(ctx, origin); seedErr != nil {
			err = errors.Join(err, seedErr)
		} else {
			err = nil
		}
	}
	if err == nil && (p == nil || p.ID != origin.Process || p.Root != origin.Root) {
		err = fmt.Errorf("the process table answers for somebody else")
	}
	if err != nil {
		g.Metrics.Attribution("none")
		return nil, fmt.Errorf("find process %v: %w", origin.Process, err)
	}
	if p.Partial {
		g.Metrics.Attribution("partial")
	} else {
		g.Metrics.Attribution("full")
	}
	return p, nil
}

// detect finds the language: what the policy says of the target first, the
// agent's first bytes second. In observe mode what is not recognised is relayed
// unread, because observing must not break anything. Datagrams have one
// language: a relay would not know when a flow is over.
func (g *Gateway) detect(ctx context.Context, s *session) (protocol.Protocol, error) {
	if s.Downstream.Origin.Transport != transparent.TCP {
		if g.Datagram == nil {
			return nil, fmt.Errorf("%w: nothing speaks over %s", protocol.ErrUnknown, s.Downstream.Origin.Transport)
		}
		return g.Datagram, nil
	}
	if name := s.Resource.Protocol; name != "" {
		if p, ok := protocol.ByName(g.Protocols, name); ok {
			return p, nil
		}
		return nil, fmt.Errorf("%w: the policy's resource %q says %q", protocol.ErrUnknown, s.Resource.Name, name)
	}
	p, err := protocol.Detect(ctx, s.Downstream, g.Protocols, g.Limits.Detect)
	if err != nil && g.observes(s) {
		return g.Opaque, nil
	}
	return p, err
}

// observes asks, before the language is known, whether the connection is only
// looked at. The answer acts on nothing but the choice of the relay: the
// decision about the connection is taken and recorded afterwards.
func (g *Gateway) observes(s *session) bool {
	d := g.questions.ask(s.engine(), s.request(connectTo(g.Opaque), time.Now()))
	return d.Mode == policy.Observe
}

// turnAway ends a connection whose language is not known: it can only be reset.
func (s *session) turnAway(err error) error {
	// Nothing is lost if it was gone already; err says what there is to say.
	_ = s.Downstream.Reset()
	return err
}

// refuse tells the agent in its own protocol why it was denied.
func (s *session) refuse(ctx context.Context, err error) error {
	return errors.Join(err, s.proto.Refuse(ctx, &s.Session, protocol.AsDenial(err, s.ID)))
}

// begin fixes who is behind the session and opens its record. From here on
// there is an event for everything that happens.
func (s *session) begin(who *process.Process, principal identity.Principal) error {
	agent, ok := s.gateway.Agent(s.Downstream.Origin.Enrolment)
	if !ok {
		return fmt.Errorf("enrolment %d is not in the policy", s.Downstream.Origin.Enrolment)
	}
	s.agent, s.Process, s.Principal = agent, who, principal
	s.pinned = s.gateway.Engine()
	s.Log = s.Log.With().Uint32("pid", who.ID.PID).Str("exe", exe(who)).Str("principal", principal.String()).Logger()
	about := s.request(&policy.Operation{}, s.start)
	if resource, ok := s.engine().ResourceOf(&about); ok {
		s.Resource = resource
	}
	if s.gateway.Authority != nil && s.Resource.TLS.Agent != policy.TLSRefuse {
		s.Certify = s.certify
	}
	if err := s.recordOpen(); err != nil {
		return err
	}
	record, err := s.gateway.Audit.Record(s.ID)
	if err != nil {
		return err
	}
	record.Failed = s.end
	s.record = record
	return nil
}

func exe(p *process.Process) string {
	if p.Image == nil {
		return ""
	}
	return p.Image.Exe
}
