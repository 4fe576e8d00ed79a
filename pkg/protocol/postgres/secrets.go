package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
	"github.com/headgate/headgate/pkg/protocol/postgres/login"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// forSecret is what a value was masked for that held a secret of ours.
const forSecret = "credential"

// secrets keeps what we logged in with from what the target says, and from the
// record of what the agent says. It is nil where the agent logged in itself. Its
// buffer belongs to the goroutine that reads the target.
//
// It looks into errors, notices, notifications, reported settings, names of
// columns, results of function calls, data of COPY, and the values of columns that
// no table of a user's is the origin of: computed ones, and those of system
// catalogs. The columns of users' tables are not looked into, because that is where
// the data is, and all of the cost: who can put the secret into a table can as well
// cut it into pieces.
type secrets struct {
	traces *credential.Traces
	digits bool   // whether the secret could be a number
	out    []byte // the row that is rewritten

	mu    sync.Mutex
	found func(protocol.FindingKind) error // records a finding
	told  []protocol.FindingKind           // those that were recorded, each once
	err   error                            // why one was not: what can't be recorded can't go on
}

// newSecrets returns what keeps the credential from the agent, and calls found the
// first time that it is somewhere.
func newSecrets(shared *credential.Shared, secret credential.Credential, outcome login.Outcome, found func(protocol.FindingKind) error) *secrets {
	s := &secrets{found: found, digits: isNumber(secret.Secret.Reveal())}
	list := []credential.Secret{secret.Secret}
	if !secret.Secret.IsZero() && !secret.Token {
		digits := []byte(strings.TrimPrefix(login.MD5Verifier(secret.Username, secret.Secret), "md5"))
		list = append(list, credential.NewSecret(digits))
		if sum, err := hex.DecodeString(string(digits)); err == nil {
			list = append(list, credential.NewSecret(sum))
		}
	}
	if v := outcome.Verifier; v != nil {
		list = append(list, credential.NewSecret(v.StoredKey), credential.NewSecret(v.ServerKey))
	}
	if s.traces = shared.Traces(list...); s.traces == nil {
		return nil
	}
	return s
}

func isNumber(value []byte) bool {
	return bytes.IndexFunc(value, func(r rune) bool { return !strings.ContainsRune("0123456789.+-eE", r) }) < 0
}

// message blanks what a message that is no row holds of a secret, in place.
func (s *secrets) message(typ byte, raw []byte) error {
	if s == nil {
		return nil
	}
	body := raw[5:]
	skip := 0 // bytes in front of each text
	switch typ {
	case wire.ErrorResponse, wire.NoticeResponse:
		skip = 1
	case wire.NotificationResponse:
		body = body[min(4, len(body)):]
	case wire.ParameterStatus, wire.RowDescription, wire.CommandComplete:
	default:
		return nil
	}
	hits := 0
	for len(body) > 0 {
		text, rest, _ := bytes.Cut(body, []byte{0})
		if len(text) > skip {
			hits += s.traces.Blank(text[skip:])
		}
		body = rest
	}
	return s.hit(protocol.FindingReturned, hits)
}

// operation blanks a secret in what the agent says, so that no record has it. Who
// says it knows it.
func (s *secrets) operation(op *policy.Operation) error {
	if s == nil {
		return nil
	}
	hits := 0
	if s.traces.FindString(op.Text) {
		text := []byte(op.Text)
		hits += s.traces.Blank(text)
		op.Text = string(text)
	}
	for i, p := range op.Parameters {
		if !s.traces.FindString(p) {
			continue
		}
		text := []byte(p)
		hits += s.traces.Blank(text)
		op.Parameters = slices.Clone(op.Parameters)
		op.Parameters[i] = string(text)
	}
	return s.hit(protocol.FindingHoldsSecret, hits)
}

// hit sees to it that it is known that something was found.
func (s *secrets) hit(kind protocol.FindingKind, hits int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if hits > 0 && !slices.Contains(s.told, kind) {
		s.told = append(s.told, kind)
		s.err = errors.Join(s.err, s.found(kind))
	}
	return s.err
}

// trouble returns why the session has to end.
func (s *secrets) trouble() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// holds reports whether a value holds a secret. If that can't be recorded, trouble
// says so from then on.
func (s *secrets) holds(value []byte) bool {
	if s == nil || !s.traces.Find(value) {
		return false
	}
	_ = s.hit(protocol.FindingReturned, 1) // trouble has it
	return true
}

// sieve tells which columns of a result have to be looked into. It is immutable.
type sieve struct {
	columns []sifted
	// guessed says that the portal was not described, so that there may be other
	// columns than these.
	guessed bool
}

type sifted struct {
	look  bool
	class class
}

// sieve returns nil where nothing has to be looked into. Where the portal was not
// described its statement may have been: the types of its columns can't change
// after that, but where they come from can.
func (s *secrets) sieve(r *request) *sieve {
	if s == nil {
		return nil
	}
	if described := r.result; described != nil {
		if !described.sifted {
			described.sieve, described.sifted = s.sieveOf(described, false), true
		}
		return described.sieve
	}
	if described := r.portal.guess(); described != nil {
		return s.sieveOf(described, true)
	}
	return &sieve{guessed: true}
}

// sieveOf returns the sieve for the columns that were described.
func (s *secrets) sieveOf(described *result, guessed bool) *sieve {
	v := &sieve{guessed: guessed}
	v.columns = make([]sifted, len(described.columns))
	some := false
	for i := range described.columns {
		c := &described.columns[i]
		own := c.Table < catalog.FirstUserOID || v.guessed
		v.columns[i] = sifted{class: classOf(c.Type), look: own && (s.digits || !holdsNumber(c.Type))}
		some = some || v.columns[i].look
	}
	if !some && !v.guessed {
		return nil
	}
	return v
}

// of returns what is known of a column of a row that has n of them.
func (v *sieve) of(i, n int) sifted {
	if len(v.columns) != n {
		return sifted{look: true}
	}
	return v.columns[i]
}

// guess returns what the portal's statement was described as, or nil.
func (p *portal) guess() *result {
	if p == nil || len(p.sources) != 1 || p.sources[0] == nil {
		return nil
	}
	return p.sources[0].described
}

// holdsNumber reports whether the values of a type are numbers, truths or times,
// which nothing but a number of that kind can hide in.
func holdsNumber(oid uint32) bool {
	switch oid {
	case 16, 20, 21, 23, 26, 700, 701, 1700, // bool, int8, int2, int4, oid, float4, float8, numeric
		1082, 1083, 1114, 1184, 1186, 1266: // date, time, timestamp, timestamptz, interval, timetz
		return true
	default:
		return false
	}
}

// row returns a DataRow without values that hold a secret, and their number. Without
// any it is raw itself. The result is valid until the next call.
func (s *secrets) row(v *sieve, raw []byte) (out []byte, hidden int, err error) {
	row, n, err := wire.DecodeDataRow(raw[5:])
	if err != nil {
		return nil, 0, err
	}
	if !v.guessed && n != len(v.columns) {
		return nil, 0, errDesync
	}
	at, copied := 7, 0 // offset of the value in raw, and how much of raw is in out
	for i := range n {
		value := row.Next()
		start := at
		at += 4 + len(value)
		column := v.of(i, n)
		if value == nil || !column.look || !s.traces.Find(value) {
			continue
		}
		if hidden == 0 {
			s.out = s.out[:0]
		}
		s.out = append(s.out, raw[copied:start]...)
		s.out = appendHidden(s.out, column.class, value)
		copied = at
		hidden++
	}
	if err := row.Err(); err != nil {
		return nil, 0, err
	}
	if hidden == 0 {
		return raw, 0, nil
	}
	s.out = append(s.out, raw[copied:]...)
	binary.BigEndian.PutUint32(s.out[1:], uint32(len(s.out)-1))
	return s.out, hidden, nil
}

// hiddenText takes the place of a value that holds a secret: of all of it, since
// what stands around it may be the rest.
const hiddenText = "[secret]"

func appendHidden(out []byte, c class, value []byte) []byte {
	text := ""
	switch {
	case c == textValue:
		text = hiddenText
	case c == jsonbValue && value[0] == 1: // in binary format a version stands in front
		text = "\x01\"" + hiddenText + `"`
	case c == jsonValue, c == jsonbValue:
		text = `"` + hiddenText + `"`
	default:
		return binary.BigEndian.AppendUint32(out, 0xffffffff) // NULL
	}
	return append(binary.BigEndian.AppendUint32(out, uint32(len(text))), text...)
}

// sift keeps secrets from the row that is shown.
func (x *exchange) sift(r *request, raw []byte) ([]byte, error) {
	if r.sieve == nil {
		return raw, nil
	}
	out, hidden, err := x.secrets.row(r.sieve, raw)
	if err != nil {
		return nil, fromUpstream(err)
	}
	return out, x.hidden(&r.running.tally, hidden)
}

// hidden counts values that were hidden.
func (x *exchange) hidden(t *tally, n int) error {
	for range n {
		t.detect([]string{forSecret})
	}
	t.masked += uint64(n)
	return x.secrets.hit(protocol.FindingReturned, n)
}

// siftCopy relays data of a COPY that nothing else has to be done to.
func (x *exchange) siftCopy(ctx context.Context, t *tally, length int) error {
	lease, err := x.borrow(ctx, min(length, x.postgres.options.MaxRow))
	if err != nil {
		return fromUpstream(err)
	}
	defer x.handBack(lease)
	raw, err := x.fromTarget.Raw(x.postgres.options.MaxRow)
	if err != nil {
		return fromUpstream(err)
	}
	if err := x.hidden(t, x.secrets.traces.Blank(raw[5:])); err != nil {
		return err
	}
	return x.tell(raw)
}

// keepSecrets keeps what we logged in with from what the target says from now on.
func (o *opening) keepSecrets(secret credential.Credential, outcome login.Outcome) {
	name, value := secret.Name, secret.Secret // of the rest nothing is kept
	o.secrets = newSecrets(&o.postgres.traces, secret, outcome, func(kind protocol.FindingKind) error { return o.found(kind, name, value) })
}
