package postgres

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/login"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
	"github.com/headgate/headgate/pkg/upstream"
)

// negotiate reads start-up packets until the agent says what it wants. A nil
// result without an error means that there is nothing left to do.
func (o *opening) negotiate(ctx context.Context) (*wire.Startup, error) {
	start, err := o.listen(ctx)
	if err == io.EOF {
		return nil, nil
	}
	if err != nil || start == nil || o.session.Observe {
		return start, err
	}
	if start.Code == wire.CancelCode {
		return nil, o.cancel(ctx, start)
	}
	return start, o.admit(ctx, start)
}

func (o *opening) listen(ctx context.Context) (*wire.Startup, error) {
	if o.session.Observe {
		return o.overhear(ctx)
	}
	return o.ask(ctx)
}

// admit judges what a StartupMessage asks for beyond a plain session.
func (o *opening) admit(ctx context.Context, start *wire.Startup) error {
	if v, ok := start.Get("replication"); ok && !isFalse(v) {
		return o.tellDenial(o.decline(ctx, replication(), "replication can't be mediated"), codeIdentity)
	}
	if facts := unsettling(start); len(facts) > 0 {
		if _, err := o.session.Decide(ctx, operation(facts, nil)); err != nil {
			return o.tellDenial(protocol.AsDenial(err, o.session.ID), codePrivilege)
		}
	}
	return nil
}

// replication is the operation of a connection that wants to be a replica.
func replication() *policy.Operation {
	return operation([]*statement.Statement{{Verb: verbReplication, Effects: []string{verbReplication}}}, nil)
}

// decline asks for the decision, for the record, and refuses in any case.
func (o *opening) decline(ctx context.Context, op *policy.Operation, why string) *protocol.Denial {
	ruling, err := o.session.Decide(ctx, op)
	if err != nil {
		return protocol.AsDenial(err, o.session.ID)
	}
	return &protocol.Denial{ID: ruling.ID, Rule: "default", Reason: "unsupported", Detail: why}
}

func isFalse(v string) bool {
	switch strings.ToLower(v) {
	case "false", "off", "no", "0", "f", "n":
		return true
	default:
		return false
	}
}

// unsettling returns what the settings in a StartupMessage do that is more than a
// plain SET, which is judged as if it were said in SQL.
func unsettling(start *wire.Startup) []*statement.Statement {
	var facts []*statement.Statement
	for _, p := range start.Parameters {
		settings := []wire.Parameter{p}
		if p.Name == "options" {
			var err error
			if settings, err = parseOptions(p.Value); err != nil {
				facts = append(facts, notUnderstood("", "the start-up options are not understood"))
			}
		}
		for _, s := range settings {
			name := strings.ToLower(strings.ReplaceAll(s.Name, "-", "_"))
			effect, reason := statement.Setting(name, s.Value)
			if effect == statement.Set {
				continue
			}
			if reason == "" {
				reason = "the start-up packet sets it"
			}
			facts = append(facts, &statement.Statement{
				Verb: effect, Effects: []string{effect}, Reason: reason,
				Objects: []statement.Object{{Kind: "setting", Name: name, Write: true}},
			})
		}
	}
	return facts
}

var errOptions = errors.New("options are not understood")

// parseOptions splits an options parameter as pg_split_opts does, and reads the
// switches -c name=value and --name=value. Any other switch is an error.
func parseOptions(s string) ([]wire.Parameter, error) {
	var settings []wire.Parameter
	args := splitOptions(s)
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "-c" && i+1 < len(args):
			i++
			arg = args[i]
		case strings.HasPrefix(arg, "-c"):
			arg = arg[2:]
		case strings.HasPrefix(arg, "--"):
			arg = arg[2:]
		default:
			return nil, errOptions
		}
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, errOptions
		}
		settings = append(settings, wire.Parameter{Name: name, Value: value})
	}
	return settings, nil
}

// splitOptions splits at white space; a backslash takes the next character as it
// is.
func splitOptions(s string) []string {
	var args []string
	var arg []byte
	inside := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case strings.IndexByte(" \t\n\v\f\r", c) >= 0:
			if inside {
				args = append(args, string(arg))
			}
			arg, inside = arg[:0], false
		case c == '\\' && i+1 < len(s):
			i++
			arg, inside = append(arg, s[i]), true
		default:
			arg, inside = append(arg, c), true
		}
	}
	if inside {
		args = append(args, string(arg))
	}
	return args
}

// dial opens the plain connection to the origin.
func (o *opening) dial(ctx context.Context) error {
	conn, err := o.session.Dial(ctx)
	if err != nil {
		return fromUpstream(fmt.Errorf("dial origin: %w", err))
	}
	o.target = conn
	o.sides.add(conn)
	return nil
}

// verification returns how the target of a resource is verified, "" if no TLS is
// spoken with it: that has to be asked for, since a login and all data would go
// there in the clear.
func verification(t policy.TLS) string {
	switch t.Verify {
	case "":
		return policy.TLSFull
	case policy.TLSOff:
		return ""
	default:
		return t.Verify
	}
}

// errUnsecured means that no TLS could be spoken with the target.
var errUnsecured = errors.New("secure target")

// secure starts TLS with the target unless the resource says that it is none.
func (o *opening) secure(ctx context.Context) error {
	if verification(o.session.Resource.TLS) == "" {
		return nil
	}
	secured, err := login.Secure(ctx, o.target, o.session.Secure)
	if err != nil {
		return fromUpstream(fmt.Errorf("%w: %w", errUnsecured, advise(err, o.session.Resource)))
	}
	o.target, o.encrypted = secured, true
	o.sides.add(secured)
	return nil
}

// advise says what the policy can do about a certificate that was not good.
func advise(err error, r policy.Resource) error {
	var (
		name  x509.HostnameError
		chain x509.UnknownAuthorityError
	)
	switch {
	case errors.As(err, &name):
		return fmt.Errorf("%w: if it is the right one, give resource %q that name in hosts or in tls: {server_name: …}", err, r.Name)
	case errors.As(err, &chain):
		return fmt.Errorf("%w: give resource %q the authority that signed it, tls: {verify: full, ca: /path.pem}", err, r.Name)
	default:
		return err
	}
}

// overhear reads start-up packets that are relayed as they are. A nil result
// without an error means that the connection has been relayed to its end.
func (o *opening) overhear(ctx context.Context) (*wire.Startup, error) {
	direct, err := speaksTLS(o.session.Downstream)
	if err != nil {
		return nil, err
	}
	if direct {
		if err := o.dial(ctx); err != nil {
			return nil, err
		}
		return nil, o.relay(ctx)
	}
	for range maxRounds {
		start, raw, err := wire.ReadStartup(o.session.Downstream)
		if err == io.EOF {
			return nil, io.EOF
		}
		if err != nil {
			return nil, fromDownstream(err)
		}
		if over, err := o.observe(ctx, start, raw); over || err != nil {
			return nil, err
		}
		if start.Code>>16 == 3 {
			return start, nil
		}
	}
	return nil, fromDownstream(fmt.Errorf("read start-up packet: %w: too many requests for encryption", wire.ErrMalformed))
}

// observe relays a start-up packet as it is. over tells that the connection has
// been relayed to its end.
func (o *opening) observe(ctx context.Context, start *wire.Startup, raw []byte) (over bool, err error) {
	if o.target == nil {
		if err := o.dial(ctx); err != nil {
			return false, err
		}
	}
	if _, err := o.target.Write(raw); err != nil {
		return false, fromUpstream(fmt.Errorf("forward start-up packet: %w", err))
	}
	switch start.Code {
	case wire.CancelCode:
		return true, o.relay(ctx)
	case wire.SSLCode, wire.GSSCode:
	default:
		v, ok := start.Get("replication")
		if !ok || isFalse(v) {
			return false, nil
		}
		var d *protocol.Denial
		_, err := o.session.Decide(ctx, replication())
		if err != nil && (!errors.As(err, &d) || d.Reason == protocol.ReasonAudit) {
			return false, fmt.Errorf("decide operation: %w", err)
		}
		return true, o.relay(ctx)
	}
	var answer [1]byte
	if _, err := io.ReadFull(o.target, answer[:]); err != nil {
		return false, fromUpstream(fmt.Errorf("read answer to start-up packet: %w", err))
	}
	if _, err := o.session.Downstream.Write(answer[:]); err != nil {
		return false, fromDownstream(fmt.Errorf("relay answer to start-up packet: %w", err))
	}
	if answer[0] == 'N' {
		return false, nil
	}
	return true, o.relay(ctx)
}

// relay copies opaque bytes both ways until both directions have ended. For who
// does not look into it, the session has started.
func (o *opening) relay(ctx context.Context) error {
	if !o.clock.Stop() || !o.sides.release() {
		return fmt.Errorf("relay session: %w", context.Cause(ctx))
	}
	if _, _, err := upstream.CopyBoth(ctx, o.session.Downstream, o.target); err != nil {
		return &toldError{fmt.Errorf("relay session: %w", err)}
	}
	return nil
}
