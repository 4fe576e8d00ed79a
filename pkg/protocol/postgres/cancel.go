package postgres

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"
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
	key       []byte // ours, which the agent knows
	// The target's, which it does not.
	targetPID uint32
	targetKey []byte
}

// cancels are the sessions that can be cancelled, by the process number that
// their agent was told. Safe for concurrent use. The zero value has none and takes
// none.
type cancels struct {
	mu    sync.Mutex
	live  map[uint32]*cancelable
	limit int
	key   func(key []byte) (pid uint32)
}

// randomKey fills a key, and returns a number as processes have them.
func randomKey(key []byte) uint32 {
	var pid [4]byte
	for _, b := range [][]byte{key, pid[:]} {
		if _, err := rand.Read(b); err != nil {
			panic(fmt.Sprintf("read random bytes: %v", err)) // documented never to happen
		}
	}
	return binary.BigEndian.Uint32(pid[:]) >> 1
}

// add makes a session one that can be cancelled, by a key of that size. ok is
// false if there is no room.
func (c *cancels) add(s *cancelable, size int) (pid uint32, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.live) >= c.limit || s.session.Process == nil || s.session.Process.Root.IsZero() {
		return 0, false
	}
	for range 16 { // a number is taken once in 2^15 times at worst
		key := make([]byte, size)
		pid = c.key(key)
		if _, taken := c.live[pid]; pid != 0 && !taken {
			s.key = key
			c.live[pid] = s
			return pid, true
		}
	}
	return 0, false
}

func (c *cancels) remove(pid uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.live, pid)
}

// find returns the session that a CancelRequest names, if it belongs to the same
// tree as who asks, and nil otherwise: it ended, is another's or never was.
func (c *cancels) find(request *wire.Startup, who *process.Process) *cancelable {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.live[request.PID]
	if s == nil || who == nil || who.Root.IsZero() || who.Root != s.session.Process.Root {
		return nil
	}
	if subtle.ConstantTimeCompare(s.key, request.Key) != 1 {
		return nil
	}
	return s
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
	if o.pid != 0 || o.targetPID != 0 {
		return nil, fmt.Errorf("%w: a second BackendKeyData", wire.ErrMalformed)
	}
	s := &cancelable{session: o.session, encrypted: o.encrypted, targetPID: pid, targetKey: append([]byte(nil), key...)}
	size := shortKey
	if o.version == wire.Version32 {
		size = longKey
	}
	o.targetPID, o.canceller = pid, s
	var ok bool
	if o.pid, ok = o.postgres.cancels.add(s, size); !ok {
		o.session.Log.Warn().Msg("session can't be cancelled: there are too many")
		return nil, nil
	}
	out, mark := wire.Begin(nil, wire.BackendKeyData)
	out = binary.BigEndian.AppendUint32(out, o.pid)
	return wire.Finish(append(out, s.key...), mark), nil
}
