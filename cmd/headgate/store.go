package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// socket is a listening socket of the daemon.
type socket interface {
	syscall.Conn
	io.Closer
}

// store keeps descriptors with the service manager while the daemon restarts:
// systemd's descriptor store (sd_notify(3), FDSTORE=1). What connects meanwhile
// waits in the sockets' queues, and nobody can take their ports. The zero store,
// without a service manager, keeps nothing.
type store struct{ notify string }

func openStore(getenv func(string) string) store { return store{getenv("NOTIFY_SOCKET")} }

// inherited returns what the store kept, or else what the manager opened for us.
// The caller owns the files.
func (s store) inherited() []*os.File { return activation.Files(true) }

func (s store) kept() bool { return s.notify != "" }

// put stores sockets under a name. That the manager keeps none is no error: it
// does not say.
func (s store) put(name string, sockets []socket) error {
	var fds []int
	for _, each := range sockets {
		raw, err := each.SyscallConn()
		if err != nil {
			return fmt.Errorf("store sockets: %w", err)
		}
		// The descriptor stays open: sockets are stored when they begin to serve.
		if err := raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return fmt.Errorf("store sockets: %w", err)
		}
	}
	return s.send("FDSTORE=1\nFDNAME="+name, fds)
}

// drop has the manager forget what is stored under a name.
func (s store) drop(name string) error { return s.send("FDSTOREREMOVE=1\nFDNAME="+name, nil) }

func (s store) send(state string, fds []int) (err error) {
	if !s.kept() {
		return nil
	}
	name := s.notify
	if strings.HasPrefix(name, "@") {
		name = "\x00" + name[1:]
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("tell service manager: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(fd, []byte(state), rights, &unix.SockaddrUnix{Name: name}, 0); err != nil {
		return fmt.Errorf("tell service manager: %w", err)
	}
	return nil
}
