package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/kernel"
	"github.com/headgate/headgate/pkg/transparent"
	"github.com/headgate/headgate/pkg/upstream"
)

const (
	canaryInterval = 5 * time.Second
	canaryPatience = 2 * time.Second
	// canaryAgent is no name of a policy's agent: those begin with a letter or a
	// digit.
	canaryAgent = "(canary)"
)

// The canary's targets are reserved for documentation (RFC 5737, RFC 3849):
// nobody is there who could answer instead of the daemon.
var canaryTargets = []netip.AddrPort{
	netip.MustParseAddrPort("192.0.2.254:9"), netip.MustParseAddrPort("[2001:db8:ffff::254]:9"),
}

// canary proves that agents are mediated, instead of assuming it: an enrolled
// process of the daemon's own connects, and sends a datagram, to where nobody
// is. Only the proxy can answer the first, and the second must be refused.
type canary struct {
	nonce  string
	active atomic.Bool
	// answered and refused count what it caused, which is nobody's traffic.
	answered4, answered6, refused atomic.Uint64

	mu     sync.Mutex
	cause  error // why it is not active
	probed time.Time
}

func newCanary() (*canary, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("make nonce: %w", err)
	}
	return &canary{nonce: hex.EncodeToString(b), cause: errors.New("not probed yet")}, nil
}

// answer answers the canary's connections and reports whether c is one. It
// proves that the connection came here, with its origin.
func (c *canary) answer(conn *transparent.Conn) bool {
	if c == nil || conn.Origin.Enrolment != enrolmentOf(canaryAgent) {
		return false
	}
	if conn.Origin.Target.Addr().Is4() {
		c.answered4.Add(1)
	} else {
		c.answered6.Add(1)
	}
	go func() {
		// What it did not get, the canary tells.
		_ = conn.SetDeadline(time.Now().Add(canaryPatience))
		_, _ = io.WriteString(conn, c.nonce+" "+conn.Origin.Target.String()+"\n")
		_ = conn.Close()
	}()
	return true
}

func (c *canary) settle(err error) {
	c.active.Store(err == nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cause, c.probed = err, time.Now()
}

// state returns when the latest probe ended, and why it failed.
func (c *canary) state() (time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.probed, c.cause
}

// watch probes until ctx ends. A canary that dies is replaced.
func (c *canary) watch(ctx context.Context, d *daemon) error {
	for ctx.Err() == nil {
		err := c.sing(ctx, d)
		if ctx.Err() != nil {
			return nil
		}
		c.settle(err)
		d.log.Error().Err(err).Msg("the canary ended")
		select {
		case <-ctx.Done():
		case <-time.After(canaryInterval):
		}
	}
	return nil
}

// sing runs one canary process and has it probe.
func (c *canary) sing(ctx context.Context, d *daemon) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "canary")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start canary: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start canary: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start canary: %w", err)
	}
	err = d.enrolCanary(ctx, cmd.Process.Pid)
	if err == nil {
		err = c.probes(ctx, in, bufio.NewReader(out), d)
	}
	// It ends when its input does; how, says less than err.
	_ = in.Close()
	_ = cmd.Wait()
	return err
}

// enrolCanary makes the process an agent's, where agents' sockets are hooked.
func (d *daemon) enrolCanary(ctx context.Context, pid int) error {
	dir := d.attachedTo
	if d.below {
		dir = filepath.Join(dir, agentsCgroup)
		if err := cgroup.Create(dir); err != nil {
			return err
		}
		if err := cgroup.Move(dir, pid); err != nil {
			return err
		}
	}
	start, err := kernel.ProcStart(pid)
	if err != nil {
		return err
	}
	_, err = d.kernel.Enrol(ctx, pid, start, enrolmentOf(canaryAgent))
	return err
}

func (c *canary) probes(ctx context.Context, in io.Writer, out *bufio.Reader, d *daemon) error {
	tick := time.NewTicker(canaryInterval)
	defer tick.Stop()
	for {
		if _, err := io.WriteString(in, "probe\n"); err != nil {
			return fmt.Errorf("ask canary: %w", err)
		}
		line, err := out.ReadString('\n')
		if err != nil {
			return fmt.Errorf("hear canary: %w", err)
		}
		err = c.judge([]byte(line))
		if was := c.active.Load(); was != (err == nil) {
			d.log.Warn().Err(err).Bool("active", err == nil).Msg("proof of mediation changed")
		}
		c.settle(err)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// song is what the canary says of one probe.
type song struct {
	Answers  []string // one for each of canaryTargets
	Datagram string   // "" if it could be sent
}

func (c *canary) judge(line []byte) error {
	var s song
	if err := json.Unmarshal(line, &s); err != nil || len(s.Answers) != len(canaryTargets) {
		return fmt.Errorf("hear canary: %q is no answer", line)
	}
	if s.Datagram == unix.EPERM.Error() {
		c.refused.Add(1)
	}
	for i, target := range canaryTargets {
		if s.Answers[i] != c.nonce+" "+target.String() {
			return fmt.Errorf("a connection of an enrolled process to %s did not come to the proxy: %s", target, s.Answers[i])
		}
	}
	if s.Datagram == "" {
		return fmt.Errorf("a datagram of an enrolled process to %s was not refused", canaryTargets[0])
	}
	return nil
}

// canaryCommand is the process. It probes once for each line that it reads.
func canaryCommand(e env) *cobra.Command {
	return &cobra.Command{
		Use: "canary", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			asked := bufio.NewScanner(e.stdin)
			out := json.NewEncoder(e.stdout)
			for asked.Scan() {
				s := song{Datagram: sendDatagram(canaryTargets[0])}
				for _, target := range canaryTargets {
					s.Answers = append(s.Answers, connectTo(cmd.Context(), target))
				}
				if err := out.Encode(s); err != nil {
					return err
				}
			}
			return asked.Err()
		},
	}
}

// connectTo returns what the other side says, or the error.
func connectTo(ctx context.Context, target netip.AddrPort) string {
	conn, err := upstream.Dialer{Timeout: canaryPatience}.Dial(ctx, upstream.Target{Addr: target})
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(canaryPatience)); err != nil {
		return err.Error()
	}
	text, err := bufio.NewReader(io.LimitReader(conn, 256)).ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(text)
}

// sendDatagram returns the error, which there should be.
func sendDatagram(target netip.AddrPort) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Sendto(fd, []byte("headgate"), 0, &unix.SockaddrInet4{Addr: target.Addr().As4(), Port: int(target.Port())})
		// What was sent, or not, does not depend on it.
		_ = unix.Close(fd)
	}
	// Without a route it is not known whether it would have been refused; with
	// none, nothing can leave either.
	if err == nil {
		return ""
	}
	return err.Error()
}
