package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/headgate/headgate/pkg/internal/pgtest"
	"github.com/headgate/headgate/pkg/protocol/postgres/toy"
)

const pgbouncerConfig = `
[databases]
%[1]s = host=%[2]s port=%[3]s
stub = host=%[2]s port=%[4]d
[pgbouncer]
listen_addr = %[5]s
listen_port = %[6]d
unix_socket_dir =
auth_type = trust
auth_file = %[7]s
pool_mode = session
default_pool_size = 20000
max_client_conn = 20000
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
`

func (r *rig) startPgbouncer(ctx context.Context) (err error) {
	users, err := r.write("users.txt", fmt.Sprintf("%q %q\n", pgtest.App, pgtest.AppPassword))
	if err != nil {
		return err
	}
	file, err := r.write("pgbouncer.ini", fmt.Sprintf(pgbouncerConfig,
		pgtest.Database, plainHost, r.port, stubPort, peerHost, pgbouncerPort, users))
	if err != nil {
		return err
	}
	cmd := asNobody(exec.Command("/usr/sbin/pgbouncer", file))
	r.pgbouncer, err = r.spawn(ctx, "pgbouncer", cmd, listens(peerHost, pgbouncerPort))
	return err
}

const haproxyConfig = `
global
  maxconn %[9]d
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen database
  bind %[1]s:%[2]d
  server one %[3]s:%[4]s
listen echo
  bind %[1]s:%[5]d
  server one %[3]s:%[6]d
listen stub
  bind %[1]s:%[7]d
  server one %[3]s:%[8]d
`

func (r *rig) startHaproxy(ctx context.Context) (err error) {
	const sockets = 2
	most, err := mostSessions(sockets)
	if err != nil {
		return err
	}
	file, err := r.write("haproxy.cfg", fmt.Sprintf(haproxyConfig,
		peerHost, haproxyPort, plainHost, r.port, haproxyEcho, echoPort, haproxyStub, stubPort, most))
	if err != nil {
		return err
	}
	cmd := asNobody(exec.Command("/usr/sbin/haproxy", "-db", "-f", file))
	r.haproxy, err = r.spawn(ctx, "haproxy", cmd, listens(peerHost, haproxyPort))
	return err
}

// mostSessions is how many sessions the descriptors of a process are enough for,
// if each takes so many of them.
func mostSessions(each int) (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read limit of descriptors: %w", err)
	}
	const own = 500
	return (int(limit.Cur) - own) / each, nil
}

// listeners opens the targets that are no database: one that sends back a byte
// and closes, and the toy that logs in whoever has the password.
func (r *rig) listeners(ctx context.Context) error {
	var lc net.ListenConfig
	echo, err := lc.Listen(ctx, "tcp4", ":"+strconv.Itoa(echoPort))
	if err != nil {
		return fmt.Errorf("open echo: %w", err)
	}
	r.ends = append(r.ends, echo.Close)
	go echoes(echo)
	stub, err := lc.Listen(ctx, "tcp4", ":"+strconv.Itoa(stubPort))
	if err != nil {
		return fmt.Errorf("open stub: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	r.ends = append(r.ends, func() error {
		cancel()
		return <-ended
	})
	go func() { ended <- (&toy.Server{Username: pgtest.App, Password: pgtest.AppPassword}).Serve(ctx, stub) }()
	return nil
}

// echoes sends the first byte of each connection back, and closes first.
func echoes(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			var b [1]byte
			if _, err := io.ReadFull(c, b[:]); err == nil {
				_, _ = c.Write(b[:]) // who connected will tell
			}
		}()
	}
}
