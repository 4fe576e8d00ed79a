package postgres

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

const (
	// maxCancelable bounds the sessions that can be cancelled. Those beyond are
	// given no key, as by a target that has none.
	maxCancelable = 1 << 16
	// shortKey and longKey are the lengths of our keys under 3.0, which knows no
	// other, and since 3.2, where it is PostgreSQL's own.
	shortKey = 4
	longKey  = 32
)

// cancelable is a session that a CancelRequest can name.
type cancelable struct {
	// session is the one that runs: whoever cancels it goes where it went.
	session   *protocol.Session
	encrypted bool
	// targetPID is what the target calls the session, and so does its agent, which
	// meets that number in notifications, in pg_stat_activity and in what it hands
	// to pg_terminate_backend.
	targetPID uint32
	key       []byte // ours, which the agent knows
	targetKey []byte // the target's, which it does not
}

// cancels are the sessions that can be cancelled, by the process number that
// their agent was told: each target has its own numbers, so several may have the
// same one. Safe for concurrent use. The zero value has none and takes
// none.
type cancels struct {
	mu    sync.Mutex
	live  map[uint32][]*cancelable
	count int
	limit int
	key   func(key []byte)
}

// randomKey fills a key.
func randomKey(key []byte) {
	if _, err := rand.Read(key); err != nil {
		panic(fmt.Sprintf("read random bytes: %v", err)) // documented never to happen
	}
}

// add makes a session one that can be cancelled, by a key of that size. It returns
// false if there is no room.
func (c *cancels) add(s *cancelable, size int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count >= c.limit || s.session.Process == nil || s.session.Process.Root.IsZero() {
		return false
	}
	s.key = make([]byte, size)
	c.key(s.key)
	c.live[s.targetPID] = append(c.live[s.targetPID], s)
	c.count++
	return true
}

// remove forgets a session, if it was there.
func (c *cancels) remove(s *cancelable) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.live[s.targetPID]
	at := slices.Index(all, s)
	if at < 0 {
		return
	}
	c.count--
	if len(all) == 1 {
		delete(c.live, s.targetPID)
		return
	}
	c.live[s.targetPID] = slices.Delete(all, at, at+1)
}

// find returns the session that a CancelRequest names, if it belongs to the same
// tree as who asks, and nil otherwise: it ended, is another's or never was.
func (c *cancels) find(request *wire.Startup, who *process.Process) *cancelable {
	if who == nil || who.Root.IsZero() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.live[request.PID] {
		if who.Root == s.session.Process.Root && subtle.ConstantTimeCompare(s.key, request.Key) == 1 {
			return s
		}
	}
	return nil
}

// cancel has the target cancel what runs on a session of the same tree. It is
// never answered, so nobody learns which keys exist.
func (o *opening) cancel(ctx context.Context, request *wire.Startup) error {
	s := o.postgres.cancels.find(request, o.session.Process)
	if s == nil {
		return nil
	}
	there := *o.session
	there.Dial, there.Secure, there.Resource = s.session.Dial, s.session.Secure, s.session.Resource
	o.session = &there
	if err := o.dial(ctx); err != nil {
		return &toldError{err}
	}
	if s.encrypted {
		if err := o.secure(ctx); err != nil {
			return &toldError{err}
		}
	}
	if _, err := o.target.Write(wire.AppendCancel(nil, s.targetPID, s.targetKey)); err != nil {
		return &toldError{fmt.Errorf("forward cancel request: %w", err)}
	}
	// The target closes when it has done what was asked.
	if _, err := io.Copy(io.Discard, io.LimitReader(o.target, 1<<10)); err != nil {
		return &toldError{fmt.Errorf("await cancel: %w", err)}
	}
	return nil
}

// keyed takes the target's BackendKeyData and returns ours, or nothing if the
// session can't be cancelled.
func (o *opening) keyed(body []byte) ([]byte, error) {
	pid, key, err := wire.DecodeBackendKeyData(body)
	if err != nil {
		return nil, err
	}
	if o.canceller != nil {
		return nil, fmt.Errorf("%w: a second BackendKeyData", wire.ErrMalformed)
	}
	s := &cancelable{session: o.session, encrypted: o.encrypted, targetPID: pid, targetKey: append([]byte(nil), key...)}
	size := shortKey
	if o.version == wire.Version32 {
		size = longKey
	}
	o.canceller = s
	if !o.postgres.cancels.add(s, size) {
		o.session.Log.Warn().Msg("session can't be cancelled: there are too many")
		return nil, nil
	}
	out, mark := wire.Begin(nil, wire.BackendKeyData)
	out = binary.BigEndian.AppendUint32(out, pid)
	return wire.Finish(append(out, s.key...), mark), nil
}
