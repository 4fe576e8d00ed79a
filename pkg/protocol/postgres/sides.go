package postgres

import (
	"net"
	"sync"
	"time"
)

// sides are the connections of a session that starts. What waits for one of them
// can be interrupted, whichever exist by then. Safe for concurrent use.
type sides struct {
	mu          sync.Mutex
	conns       []net.Conn
	interrupted bool
	released    bool
}

// add makes conn one of the sides. It may stand for another one that it wraps.
func (s *sides) add(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, conn)
	if s.interrupted {
		expire(conn)
	}
}

// interrupt makes whatever waits for a side return, now and from now on.
func (s *sides) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released {
		return
	}
	s.interrupted = true
	for _, conn := range s.conns {
		expire(conn)
	}
}

// release ends that: a later interrupt touches nothing. It returns false if there
// was one already.
func (s *sides) release() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.released = true
	return !s.interrupted
}

// expire makes what waits for conn return, and all that comes after.
func expire(conn net.Conn) {
	if err := conn.SetDeadline(time.Unix(1, 0)); err != nil {
		_ = conn.Close() // it is gone already, or waits for nothing now
	}
}
