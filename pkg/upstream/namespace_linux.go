package upstream

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/socket"
)

// socketIn makes a socket in the target's network namespace: where we are, if that
// is it or none is named.
func (d Dialer) socketIn(target Target) (int, error) {
	if target.Netns == 0 && d.Namespaces != nil {
		return -1, fmt.Errorf("%w: the target names none", ErrNamespace)
	}
	fd, err := newSocket(target)
	if !errors.Is(err, errElsewhere) {
		return fd, err
	}
	if d.Namespaces == nil {
		return -1, fmt.Errorf("%w: %d is not the own one, and no other is known", ErrNamespace, target.Netns)
	}
	if target.Addr.Addr().Zone() != "" {
		// It is the name of an interface of the namespace that the caller is in.
		return -1, fmt.Errorf("%w: the zone of %s can't be found from here", ErrNamespace, target)
	}
	namespace, release, err := d.Namespaces(target.Netns)
	if err != nil {
		return -1, fmt.Errorf("%w: find %d: %w", ErrNamespace, target.Netns, err)
	}
	defer release()
	fd, err = excursion(func() (int, error, error) { return visit(namespace, target) })
	if err != nil {
		return -1, fmt.Errorf("%w: %w", ErrNamespace, err)
	}
	return fd, nil
}

// excursion calls visit on a thread of its own, and lets nobody else have that
// thread unless it came back.
func excursion(visit func() (fd int, err, back error)) (fd int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The process is where its main thread is, for whoever looks at it
			// in /proc, and that thread can't die. As long as it is kept here,
			// another one is another.
			defer runtime.UnlockOSThread()
			fd, err = excursion(visit)
			return
		}
		var back error
		fd, err, back = visit()
		if back == nil {
			runtime.UnlockOSThread()
			return
		}
		// It stays locked, so that it dies with this goroutine.
		if err == nil {
			err = unix.Close(fd)
		}
		err = errors.Join(fmt.Errorf("leave: %w", back), err)
	}()
	<-done
	return fd, err
}

// visit takes the calling thread, which is locked, into the namespace and back.
// An error in back means that it did not come back.
func visit(namespace int, target Target) (fd int, err, back error) {
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open own: %w", err), nil
	}
	// It was only read.
	defer func() { _ = unix.Close(own) }()
	if err := unix.Setns(namespace, unix.CLONE_NEWNET); err != nil {
		return -1, fmt.Errorf("enter: %w", err), nil
	}
	fd, err = newSocket(target)
	return fd, err, unix.Setns(own, unix.CLONE_NEWNET)
}

// errElsewhere means that a socket is not in the namespace that was asked for.
var errElsewhere = errors.New("socket is in another network namespace")

// newSocket makes a socket where the thread is, and makes sure that this is
// where the target says, if it does.
func newSocket(target Target) (int, error) {
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	if target.Addr.Addr().Unmap().Is4() {
		family = unix.AF_INET
	}
	if target.Network == UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := socket.Open(family, kind)
	if err != nil || target.Netns == 0 {
		return fd, err
	}
	here, err := socket.Netns(fd)
	if err == nil && here != target.Netns {
		err = fmt.Errorf("%w: in %d, not in %d", errElsewhere, here, target.Netns)
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}
