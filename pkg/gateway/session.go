package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/certs"
	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/metrics"
	"github.com/headgate/headgate/pkg/names"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/socket"
	"github.com/headgate/headgate/pkg/transparent"
	"github.com/headgate/headgate/pkg/upstream"
)

// session is one mediated connection as the gateway sees it: what the protocol
// gets, and the systems behind those functions.
type session struct {
	protocol.Session

	gateway *Gateway
	agent   string
	proto   protocol.Protocol
	// stage is where the session is, for a panic that can't say so itself.
	stage    string
	recorded bool // whether the record of the session was opened
	ended    bool // whether it was ended
	start    time.Time
	// names are those that the tree knew the target by when it connected, and
	// nameSource says where from, once that was asked.
	names      []string
	nameSource string
	// end ends the session from outside; the cause is what its agent is told.
	end context.CancelCauseFunc
	// pinned is the policy under which the connection is decided, so that the
	// resource and the decision are of one generation. Afterwards it is nil.
	pinned   *policy.Engine
	ops      atomic.Uint64
	up, down atomic.Int64
	record   *audit.Recording
	// dialled says that there is a connection to the target. Decisions in its favour
	// are announced from then on; these are the numbers of the last that was, and of
	// the last that is known to be settled.
	dialled            atomic.Bool
	announced, settled atomic.Uint64
	tree               heldMeter
	// stands is the last answer of [session.standing].
	stands atomic.Pointer[standing]
}

// open makes the session of an accepted connection. Until begin, nothing of it
// may be used but its id and its log.
func (g *Gateway) open(c *transparent.Conn, end context.CancelCauseFunc) *session {
	s := &session{gateway: g, stage: metrics.StageAttribute, start: time.Now(), end: end}
	s.Session = protocol.Session{
		ID:         audit.NewSessionID(s.start),
		Downstream: c,
		Decide:     s.decide,
		Deny:       s.deny,
		Dial:       s.dial,
		Secure:     s.secure,
		Credential: s.credential,
		Learn:      s.learn,
		Mask:       s.masks,
		Refuses:    s.refuses,
		Asks:       s.asks,
		Record:     s.recordFrame,
		NoTables:   g.Limits.RecordBytes < 0,
	}
	s.Log = g.Log.With().Str("session", s.ID).Str("target", c.Origin.Target.String()).Logger()
	return s
}

// speak fixes the language.
func (s *session) speak(p protocol.Protocol) {
	s.proto, s.stage = p, metrics.StageDecide
	s.Log = s.Log.With().Str("protocol", p.Name()).Logger()
	s.gateway.Metrics.SessionOpened(p.Name())
}

// engine returns the policy that is asked.
func (s *session) engine() *policy.Engine {
	if s.pinned != nil {
		return s.pinned
	}
	return s.gateway.Engine()
}

// close ends the session and its record, and says once how it went.
func (s *session) close(err error) error {
	s.gateway.leave(s)
	s.gateway.meters.release(s.tree.meter)
	if p := panicIn(err); p != nil {
		s.Log.Error().Err(err).Bytes("stack", p.Stack).Msg("session panicked")
		// The agent must not take the end of the stream for an orderly one. That
		// the connection is gone already is no news.
		_ = s.Downstream.Reset()
	}
	closeErr := s.Downstream.Close()
	if errors.Is(closeErr, net.ErrClosed) {
		closeErr = nil
	}
	reason := endOf(err)
	err = errors.Join(err, closeErr, s.recordEnd(reason, err))
	duration := time.Since(s.start)
	if s.proto != nil {
		s.gateway.Metrics.SessionClosed(s.proto.Name(), reason, duration)
		s.gateway.Metrics.Bytes(s.proto.Name(), "up", s.up.Load())
		s.gateway.Metrics.Bytes(s.proto.Name(), "down", s.down.Load())
	}
	event := s.Log.Info()
	if err != nil && reason != endDenied {
		s.gateway.Metrics.Error(stageOf(err, s.stage))
		event = s.Log.Warn().Str("stage", stageOf(err, s.stage))
	}
	event.Err(err).Str("end", reason).Dur("dur", duration).
		Int64("bytes_up", s.up.Load()).Int64("bytes_down", s.down.Load()).Msg("session closed")
	return err
}

// The ways in which a session ends, as metrics and records have them.
const (
	endDone   = "done"
	endDenied = "denied"
	endPanic  = "panic"
	endError  = "error"
	endLimit  = "limit" // it never began
)

func endOf(err error) string {
	var denial *protocol.Denial
	switch {
	case err == nil:
		return endDone
	case panicIn(err) != nil:
		return endPanic
	case errors.As(err, &denial):
		return endDenied
	default:
		return endError
	}
}

// panicIn returns the panic that ended a session, or nil.
func panicIn(err error) *protocol.Panic {
	var p *protocol.Panic
	errors.As(err, &p)
	return p
}

func stageOf(err error, otherwise string) string {
	var stopped *stageError
	if errors.As(err, &stopped) {
		return stopped.stage
	}
	return otherwise
}

// request is the question about an operation of this session.
func (s *session) request(op *policy.Operation, now time.Time) policy.Request {
	return policy.Request{
		Principal: s.Principal,
		Process:   s.Process,
		Agent:     s.agent,
		Target:    s.Downstream.Origin.Target,
		Transport: s.Downstream.Origin.Transport,
		Names:     s.names,
		Operation: *op,
		Time:      now,
	}
}

// questions are requests that nobody asks any more: there is one for each
// operation, and an engine keeps none.
type questions struct{ spare sync.Pool }

// ask puts a request to an engine.
func (q *questions) ask(engine *policy.Engine, request policy.Request) policy.Decision {
	r, ok := q.spare.Get().(*policy.Request)
	if !ok {
		r = new(policy.Request)
	}
	*r = request
	d := engine.Decide(r)
	*r = policy.Request{} // it would keep a session in memory
	q.spare.Put(r)
	return d
}

// decide is the one place where something is allowed: policy, then approval,
// then limits, then the record, and only then the answer.
func (s *session) decide(_ context.Context, op *policy.Operation) (protocol.Ruling, error) {
	id := s.nextOp()
	if op.Protocol == "" && s.proto != nil {
		op.Protocol = s.proto.Name()
	}
	started := time.Now()
	engine := s.engine()
	d := s.gateway.questions.ask(engine, s.request(op, started))
	s.gateway.Metrics.Decided(time.Since(started))
	if d.Reason == policy.ReasonError && op.Reason == "" {
		again := s.request(op, started)
		op.Reason = engine.Cause(&again, &d)
	}
	denial := refusal(id, d, op)
	var spend spendFunc
	if denial == nil {
		spend, denial = s.limit(id, d, op)
	}
	if err := s.conclude(id, d, op, denial); err != nil {
		return protocol.Ruling{}, err
	}
	if denial != nil {
		return protocol.Ruling{}, denial
	}
	return protocol.Ruling{ID: id, Decision: d, Spend: spend}, nil
}

// nextOp returns the id of one more operation.
func (s *session) nextOp() string {
	var room [64]byte
	id := append(append(room[:0], s.ID...), '-')
	return string(strconv.AppendUint(id, s.ops.Add(1), 10))
}

// deny refuses what decide has allowed.
func (s *session) deny(r protocol.Ruling, op *policy.Operation, denial *protocol.Denial) error {
	return s.conclude(r.ID, r.Decision, op, denial)
}

// conclude records a decision, and counts it. What can't be recorded is denied.
func (s *session) conclude(id string, d policy.Decision, op *policy.Operation, denial *protocol.Denial) error {
	if err := s.recordDecision(id, &d, op, denial); err != nil {
		s.Log.Error().Err(err).Str("op", id).Msg("decision not recorded")
		s.gateway.Metrics.Decision(op.Protocol, policy.Deny.String(), d.Rule, s.stage)
		return &protocol.Denial{ID: id, Rule: policy.DefaultRule, Reason: protocol.ReasonAudit}
	}
	s.count(op, d, denial)
	return nil
}

// refusal returns nil only for what the policy allows. An approval that nobody
// can give is a refusal.
func refusal(id string, d policy.Decision, op *policy.Operation) *protocol.Denial {
	switch d.Verdict {
	case policy.Allow:
		return nil
	case policy.Approve:
		denial := protocol.NewDenial(id, d, "a person has to approve it, and there is no way to ask one yet")
		denial.Reason = reasonApproval
		return denial
	case policy.Deny:
	}
	detail := op.Reason
	if d.Reason == policy.ReasonUnmatched {
		detail = unmatched(op)
	}
	return protocol.NewDenial(id, d, detail)
}

// unmatched tells what no rule allows, in the words that a rule would need.
func unmatched(op *policy.Operation) string {
	detail := "no rule of this host's policy allows all that it does: " + strings.Join(op.Effects, ", ")
	if op.Reason != "" {
		detail += " (" + op.Reason + ")"
	}
	return detail
}

const reasonApproval = "approval_unavailable"

func (s *session) count(op *policy.Operation, d policy.Decision, denial *protocol.Denial) {
	verdict, rule := policy.Allow.String(), d.Rule
	switch {
	case denial != nil:
		verdict, rule = policy.Deny.String(), denial.Rule
	case d.WouldHaveRule != "" && d.WouldHave != policy.Allow: // of what observes
		verdict, rule = "would_deny", d.WouldHaveRule
	}
	s.gateway.Metrics.Decision(op.Protocol, verdict, rule, s.stage)
	if op.Verb != policy.Connect {
		s.gateway.Metrics.Statement(op.Protocol, op.Verb, verdict)
	}
}

// lookUpNames asks by which names the tree knows the target. An agent is told
// an answer after it was learned, so that no connection comes too early for it.
func (s *session) lookUpNames() {
	s.nameSource = audit.NameSourceNone
	if s.gateway.Names == nil {
		return
	}
	origin := &s.Downstream.Origin
	if s.names = s.gateway.Names.Of(origin.Root, origin.Target.Addr(), s.start); len(s.names) > 0 {
		s.nameSource = audit.NameSourceDNS
	}
}

// learn remembers an answer for the tree, if whoever gave it is to be believed:
// an agent can run a name server of its own.
func (s *session) learn(a names.Answer) {
	g, origin := s.gateway, &s.Downstream.Origin
	if g.Names == nil || g.TrustedServer == nil || !g.TrustedServer(origin.Target, origin.Netns) {
		return
	}
	g.Names.Learn(origin.Root, a, time.Now())
}

// dial opens the way to the origin, from where the agent is, and to nowhere
// else.
func (s *session) dial(ctx context.Context) (net.Conn, error) {
	origin := &s.Downstream.Origin
	target := upstream.Target{Addr: origin.Target, Netns: origin.Netns}
	if origin.Transport == transparent.UDP {
		target.Network = upstream.UDP
	}
	conn, err := s.gateway.Dialer.Dial(ctx, target)
	if err != nil {
		s.gateway.Metrics.DialError(s.proto.Name(), upstream.Reason(err))
		return nil, err
	}
	s.dialled.Store(true)
	return &counted{Conn: conn, up: &s.up, down: &s.down, settle: s.settle}, nil
}

// certify speaks TLS to the agent, which may know the target by any of its names.
func (s *session) certify(ctx context.Context, conn net.Conn, t certs.Terms) (*certs.Conn, error) {
	if len(t.Names) == 0 {
		t.Names = append([]string{s.Downstream.Origin.Target.Addr().String(), s.Resource.Host, s.Resource.TLS.ServerName}, s.names...)
	}
	t.Foreign = s.foreign
	return s.gateway.Authority.Handshake(ctx, conn, t)
}

// foreign reports whether the policy gives a name to another target than this
// session's.
func (s *session) foreign(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	own := append([]string{s.Resource.Host, s.Resource.TLS.ServerName}, s.names...)
	if slices.ContainsFunc(own, func(n string) bool { return strings.EqualFold(n, name) }) {
		return false
	}
	return slices.ContainsFunc(s.engine().Hosts(), func(h policy.Host) bool { return strings.EqualFold(h.Name, name) })
}

// secure starts TLS towards the upstream as the resource demands, with our
// certificate if the credential has one. A certificate is compared with the name
// by which the policy knows the target, never with one that only the agent said.
func (s *session) secure(ctx context.Context, conn net.Conn) (net.Conn, error) {
	demand := s.Resource.TLS
	name := cmp.Or(demand.ServerName, s.Resource.Host, s.Downstream.Origin.Target.Addr().Unmap().WithZone("").String())
	want := upstream.TLS{Verify: cmp.Or(demand.Verify, policy.TLSFull), CA: demand.CA, ServerName: name, Never: s.gateway.Authority.PEM()}
	if s.Resource.Credential != "" && s.gateway.Credentials != nil {
		c, err := s.gateway.Credentials.Certificate(ctx, s.Resource.Credential, s.Downstream.Origin.Target)
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		want.Certificate, want.Key = c.Certificate, c.Key.Reveal()
	}
	config, err := upstream.TLSConfig(want)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return upstream.Secure(ctx, conn, config)
}

// credential reveals what the policy configures for the resource, to the
// destination that it is bound to. Observing injects nothing.
func (s *session) credential(ctx context.Context) (credential.Credential, bool, error) {
	if s.Resource.Credential == "" || s.Observe {
		return credential.Credential{}, false, nil
	}
	if s.gateway.Credentials == nil {
		return credential.Credential{}, false, fmt.Errorf("find credential %q: none are configured", s.Resource.Credential)
	}
	origin := &s.Downstream.Origin
	if s.Resource.TLS.Verify == policy.TLSOff && origin.Netns != s.gateway.Home {
		return credential.Credential{}, false, fmt.Errorf("reveal credential %q: %w", s.Resource.Credential, errElsewhere)
	}
	c, err := s.gateway.Credentials.For(ctx, s.Resource.Credential, origin.Target)
	if err != nil {
		return credential.Credential{}, false, err
	}
	return c, true, nil
}

// errElsewhere says why an address is not enough to know a target by: we dial from
// where the agent is, and there it may be the agent's own.
var errElsewhere = errors.New("the agent is in a network namespace of its own, and without TLS (tls: {verify: off}) nobody can tell who answers there; give the resource verified TLS")

// counted counts what crosses a connection to the target, by direction. Nothing goes
// there before settle says that the record of why it may is where it must be.
type counted struct {
	net.Conn
	up, down *atomic.Int64
	settle   func() error
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.down.Add(int64(n))
	return n, err
}

// ReadLent is Read into what l lends; see [socket.Conn.ReadLent]. The error is
// [errors.ErrUnsupported] where the connection cannot wait without a buffer.
func (c *counted) ReadLent(l socket.Lender) (int, error) {
	conn, ok := c.Conn.(*socket.Conn)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	n, err := conn.ReadLent(l)
	c.down.Add(int64(n))
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	if err := c.settle(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	c.up.Add(int64(n))
	return n, err
}

// CloseWrite ends the upward direction.
func (c *counted) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}
