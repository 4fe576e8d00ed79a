package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/kernel"
	"github.com/headgate/headgate/pkg/process"
)

const (
	// namespaceLimit bounds the network namespaces that are served at a time; in
	// others agents are refused.
	namespaceLimit = 1024
	// sweepInterval is how often namespaces are looked for that nobody uses.
	sweepInterval = 5 * time.Second
	// idleSweeps is how many of them in a row must find nobody.
	idleSweeps = 2
)

// proxies are the daemon's places, one for each network namespace that an agent
// was seen in.
type proxies struct {
	d    *daemon
	home uint64 // cookie of the daemon's own namespace
	// accepted counts the TCP connections that came with an origin.
	accepted atomic.Uint64
	tidy     *tidy

	mu      sync.Mutex
	ctx     context.Context // of serving; nil before
	all     map[uint64]*proxy
	opening map[uint64]bool
	running sync.WaitGroup
	failed  chan error
	opened  chan struct{} // there may be something to sweep
}

func newProxies(d *daemon) (*proxies, error) {
	home, err := kernel.NetnsCookie()
	if err != nil {
		return nil, err
	}
	return &proxies{d: d, home: home, tidy: newTidy(collect), all: map[uint64]*proxy{}, opening: map[uint64]bool{}, failed: make(chan error, 1), opened: make(chan struct{}, 1)}, nil
}

// listen takes over the sockets that an earlier daemon left, and opens those of
// the daemon's own namespace where there are none.
func (ps *proxies) listen(ctx context.Context, inherited map[uint64]*proxy) error {
	for cookie, p := range inherited {
		if err := ps.adopt(p); err != nil {
			ps.d.log.Warn().Err(err).Uint64("netns", cookie).Msg("sockets of the daemon before not taken over")
			if err := p.close(); err != nil {
				return err
			}
			continue
		}
		ps.all[cookie] = p
	}
	if ps.all[ps.home] != nil {
		return nil
	}
	p := &proxy{cookie: ps.home}
	if err := p.openSockets(ctx, ps.d.cfg.Intercept.Port); err != nil {
		return withHint(errors.Join(err, p.close()), "intercept.port in the configuration chooses another one")
	}
	ps.all[ps.home] = p
	return ps.d.store.put(storeName(p.cookie), p.sockets())
}

func (ps *proxies) adopt(p *proxy) error {
	if p.cookie == ps.home && (len(p.tcp) != len(loopbacks) || len(p.udp) != len(loopbacks)) {
		return errors.New("sockets are missing")
	}
	for _, s := range p.sockets() {
		if err := ps.d.kernel.Adopt(s); err != nil {
			return err
		}
	}
	if p.cookie == ps.home {
		return nil
	}
	var err error
	p.namespace, err = namespaceOf(p.sockets()[0])
	return err
}

// namespaceOf returns the network namespace of a socket.
func namespaceOf(s socket) (*os.File, error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("find network namespace: %w", err)
	}
	var ns int
	var ioctlErr error
	err = raw.Control(func(fd uintptr) { ns, ioctlErr = unix.IoctlRetInt(int(fd), unix.SIOCGSKNS) })
	if err := errors.Join(err, ioctlErr); err != nil {
		return nil, fmt.Errorf("find network namespace: %w", err)
	}
	unix.CloseOnExec(ns)
	return os.NewFile(uintptr(ns), "netns"), nil
}

func storeName(cookie uint64) string { return fmt.Sprintf("proxy-%d", cookie) }

// announce lets the kernel redirect to every place.
func (ps *proxies) announce() error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for cookie := range ps.all {
		if err := ps.d.kernel.SetListener(cookie, ps.d.cfg.Intercept.Port); err != nil {
			return err
		}
	}
	return nil
}

// run serves every place, those that are opened meanwhile too, until ctx ends
// and running sessions have drained.
func (ps *proxies) run(ctx context.Context) error {
	ps.mu.Lock()
	ps.ctx = ctx
	for _, p := range ps.all {
		ps.start(p)
	}
	ps.mu.Unlock()
	sweep := time.NewTimer(sweepInterval)
	defer sweep.Stop()
	sweeping := true
	var err error
	for ctx.Err() == nil && err == nil {
		select {
		case <-ctx.Done():
		case err = <-ps.failed:
		case <-ps.opened:
			if !sweeping { // or whoever opens many would keep it from coming
				sweep.Reset(sweepInterval)
				sweeping = true
			}
		case <-sweep.C:
			if err := ps.sweep(); err != nil {
				ps.d.log.Warn().Err(err).Msg("unused network namespaces not looked for")
			}
			if sweeping = ps.elsewhere(); sweeping {
				sweep.Reset(sweepInterval)
			}
		}
	}
	ps.mu.Lock()
	for _, p := range ps.all {
		p.stop()
	}
	ps.mu.Unlock()
	ps.running.Wait()
	return err
}

// start is called with mu held.
func (ps *proxies) start(p *proxy) {
	ctx, stop := context.WithCancel(ps.ctx)
	p.stop, p.done = stop, make(chan struct{})
	ps.running.Go(func() {
		defer close(p.done)
		defer stop()
		if err := p.serve(ctx, ps.d); err != nil && ctx.Err() == nil {
			select {
			case ps.failed <- fmt.Errorf("serve network namespace %d: %w", p.cookie, err):
			default: // one error ends the daemon
			}
		}
	})
}

// seen opens a place where a process was seen, in the background, unless there
// is one. What it connects before that is refused.
func (ps *proxies) seen(cookie uint64, by process.ID) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.ctx == nil || ps.ctx.Err() != nil || ps.all[cookie] != nil || ps.opening[cookie] || len(ps.all)+len(ps.opening) >= namespaceLimit {
		return
	}
	ps.opening[cookie] = true
	ctx := ps.ctx
	ps.running.Go(func() {
		p, err := ps.enter(ctx, cookie, by)
		ps.mu.Lock()
		defer ps.mu.Unlock()
		delete(ps.opening, cookie)
		if err != nil {
			// Its loopback is down, most likely, or the process is gone. The next
			// refusal brings us here again.
			ps.d.log.Debug().Err(err).Uint64("netns", cookie).Msg("network namespace not served")
			return
		}
		ps.all[cookie] = p
		ps.start(p)
		select {
		case ps.opened <- struct{}{}:
		default: // it is told already
		}
		ps.d.log.Info().Uint64("netns", cookie).Uint32("pid", by.PID).Msg("network namespace is served")
	})
}

// enter opens the sockets of a place in the namespace that a process is in.
func (ps *proxies) enter(ctx context.Context, cookie uint64, by process.ID) (*proxy, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", by.PID))
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	p := &proxy{cookie: cookie, namespace: ns}
	err = kernel.InNamespace(ns, func() error {
		// The pid may be another's by now, or have gone elsewhere.
		if there, err := kernel.NetnsCookie(); err != nil || there != cookie {
			return errors.Join(kernel.ErrGone, err)
		}
		return p.openSockets(ctx, ps.d.cfg.Intercept.Port)
	})
	if err == nil {
		err = ps.d.kernel.SetListener(cookie, ps.d.cfg.Intercept.Port)
	}
	if err == nil {
		err = ps.d.store.put(storeName(cookie), p.sockets())
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// dialFrom finds the namespace of a cookie for the dialler.
func (ps *proxies) dialFrom(cookie uint64) (fd int, release func(), err error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.all[cookie]
	if p == nil || p.namespace == nil {
		return 0, nil, fmt.Errorf("network namespace %d is not served", cookie)
	}
	fd, err = unix.FcntlInt(p.namespace.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("open network namespace %d: %w", cookie, err)
	}
	// A descriptor that was only dialled from has nothing to lose by closing.
	return fd, func() { _ = unix.Close(fd) }, nil
}

// elsewhere reports whether there are places outside the daemon's own namespace.
func (ps *proxies) elsewhere() bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return len(ps.all) > 1
}

// sweep gives up the places that no enrolled process is in any more: our sockets
// would keep the namespace alive.
func (ps *proxies) sweep() error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if len(ps.all) <= 1 {
		return nil
	}
	used, err := ps.used()
	if err != nil {
		return err
	}
	for cookie, p := range ps.all {
		if p.namespace == nil {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(p.namespace.Fd()), &st); err != nil {
			return fmt.Errorf("inspect network namespace: %w", err)
		}
		if used[st.Ino] || ps.d.gateway.SessionsIn(cookie) > 0 {
			p.idle = 0
			continue
		}
		if p.idle++; p.idle >= idleSweeps {
			delete(ps.all, cookie)
			ps.running.Go(func() { ps.giveUp(p) })
		}
	}
	return nil
}

// used lists the namespaces, by inode, that enrolled processes are in.
func (ps *proxies) used() (map[uint64]bool, error) {
	members, err := ps.d.kernel.Enrolled()
	if err != nil {
		return nil, err
	}
	used := map[uint64]bool{}
	for _, m := range members {
		var st unix.Stat_t
		err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", m.ID.PID), &st)
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("inspect process %d: %w", m.ID.PID, err)
		}
		used[st.Ino] = true
	}
	return used, nil
}

func (ps *proxies) giveUp(p *proxy) {
	p.stop()
	<-p.done
	err := errors.Join(ps.d.kernel.RemoveListener(p.cookie), ps.d.store.drop(storeName(p.cookie)), p.close())
	if err != nil {
		ps.d.log.Warn().Err(err).Uint64("netns", p.cookie).Msg("network namespace not given up")
		return
	}
	ps.d.log.Info().Uint64("netns", p.cookie).Msg("network namespace is no longer served")
}

// waiting counts the connections that nobody has accepted yet.
func (ps *proxies) waiting() (uint64, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	var n uint64
	for _, p := range ps.all {
		for _, l := range p.tcp {
			queued, err := kernel.Waiting(l)
			if err != nil {
				return 0, err
			}
			n += uint64(queued)
		}
	}
	return n, nil
}

// listeners lists the places, the daemon's own first.
func (ps *proxies) listeners() []control.Listener {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	var list []control.Listener
	for cookie, p := range ps.all {
		list = append(list, control.Listener{Netns: cookie, Home: cookie == ps.home, TCP: len(p.tcp), UDP: len(p.udp)})
	}
	slices.SortFunc(list, func(a, b control.Listener) int {
		if a.Home != b.Home {
			return map[bool]int{true: -1, false: 1}[a.Home]
		}
		return cmp.Compare(a.Netns, b.Netns)
	})
	return list
}

func (ps *proxies) close() error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	var errs []error
	for _, p := range ps.all {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}
