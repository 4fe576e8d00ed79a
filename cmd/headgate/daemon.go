package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/gateway"
	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/kernel"
	"github.com/headgate/headgate/pkg/metrics"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/all"
	"github.com/headgate/headgate/pkg/transparent"
	"github.com/headgate/headgate/pkg/upstream"
)

func daemonCommand(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "daemon",
		Short: "Attach to the kernel and mediate (root)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			d, err := startDaemon(cmd.Context(), cfg, newLogger(e, cfg))
			if err != nil {
				return err
			}
			return d.run(cmd.Context())
		},
	}
}

// daemon is everything that runs. Its parts are opened in the order of the
// fields and closed backwards.
type daemon struct {
	cfg       *config.Config
	log       zerolog.Logger
	metrics   *metrics.Set
	audit     *audit.Log
	below     bool         // whether the attach point is below the root
	leave     func() error // back to the cgroup that the process came from
	kernel    *kernel.Kernel
	protocols []protocol.Protocol
	policies  *policies
	tree      *process.Tree
	binder    *identity.Binder
	listeners []*transparent.Listener
	gateway   *gateway.Gateway
	control   *net.UnixListener
	scrape    net.Listener
}

// startDaemon opens everything that the daemon needs and tells the kernel about
// it last, so that nothing is redirected to a proxy that can't serve. If a part
// fails, what was opened is closed again.
func startDaemon(ctx context.Context, cfg *config.Config, log zerolog.Logger) (_ *daemon, err error) {
	d := &daemon{cfg: cfg, log: log, metrics: metrics.New(version()), tree: process.NewTree(int(cfg.Limits.Processes)), binder: &identity.Binder{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"open record", d.openAudit},
		{"open kernel side", d.openKernel},
		{"prepare protocols", d.openProtocols},
		{"load policy", d.loadPolicy},
		{"take over trees", d.seedAll},
		{"listen", d.listen},
		{"make gateway", d.makeGateway},
		{"open sockets", d.openSockets},
		{"start mediating", d.announce},
	} {
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return d, nil
}

func (d *daemon) openAudit(context.Context) (err error) {
	d.audit, err = audit.OpenLog(d.cfg.State, auditOptions(d.cfg))
	if err != nil {
		return withHint(err, "headgate sessions verify --state "+d.cfg.State+" says what is wrong with the record")
	}
	err = d.metrics.Register("audit_healthy", "1 while decisions can be recorded; while it is 0, everything is denied.", func() float64 {
		if d.audit.Err() != nil {
			return 0
		}
		return 1
	})
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find host name: %w", err)
	}
	return d.audit.Append(audit.KindDaemonStart, audit.DaemonStart{Version: version(), PID: os.Getpid(), Host: host})
}

// openKernel attaches. Where the attach point is not the root, the daemon has to
// live below it: the hook that hands the origin over follows the cgroup of the
// listening socket.
func (d *daemon) openKernel(context.Context) (err error) {
	mount, err := cgroup.Mount()
	if err != nil {
		return err
	}
	path := d.cfg.Intercept.Cgroup
	if path == "" {
		path = mount
	}
	if d.below = filepath.Clean(path) != mount; d.below {
		if err := cgroup.Create(path); err != nil {
			return err
		}
		own := filepath.Join(path, "daemon")
		if err := cgroup.Create(own); err != nil {
			return err
		}
		if d.leave, err = cgroup.Enter(own); err != nil {
			return err
		}
	}
	d.kernel, err = kernel.Open(kernel.Options{CgroupPath: path, PinDir: d.cfg.Intercept.PinDir, ProcsLimit: d.cfg.Limits.Processes})
	if errors.Is(err, syscall.EPERM) {
		return withHint(err, "headgate daemon needs root, or the capabilities of its unit")
	}
	if err != nil {
		return err
	}
	d.metrics.Kernel(d.kernelStats)
	// An earlier daemon's port may be anybody's by now.
	return errors.Join(d.kernel.Suspend(), d.introduce())
}

// introduce tells the kernel side which process is the daemon, so that its own
// connections are never redirected.
func (d *daemon) introduce() error {
	self, err := d.kernel.StartOf(os.Getpid())
	if err != nil {
		return err
	}
	if start, err := kernel.ProcStart(os.Getpid()); err != nil || !kernel.SameStart(start, self.Start) {
		return withHint(errors.New("the kernel knows another process by the daemon's pid"), "run the daemon in the host's pid namespace")
	}
	// The cgroup is exempt only if it is the daemon's own: others may be in it
	// otherwise.
	var own uint64
	if d.below {
		if own, err = d.ownCgroup(); err != nil {
			return err
		}
	}
	return d.kernel.SetDaemon(self, own)
}

func (d *daemon) ownCgroup() (uint64, error) {
	mount, err := cgroup.Mount()
	if err != nil {
		return 0, err
	}
	path, err := cgroup.Of(os.Getpid())
	if err != nil {
		return 0, err
	}
	return cgroup.ID(filepath.Join(mount, path))
}

func (d *daemon) openProtocols(context.Context) error {
	d.protocols = all.Protocols(protocol.Limits{Operation: int(d.cfg.Limits.StatementBytes), Message: int(d.cfg.Limits.MessageBytes)})
	return warm(d.protocols)
}

func (d *daemon) loadPolicy(ctx context.Context) error {
	mount, err := cgroup.Mount()
	if err != nil {
		return err
	}
	if d.policies == nil {
		if d.policies, err = newPolicies(d.cfg.Policies, d.audit, all.Vocabulary(d.protocols)); err != nil {
			return err
		}
	}
	own, err := d.ownPorts()
	if err != nil {
		return err
	}
	err = d.policies.Load(ctx, func(e *policy.Engine) error { return applyToKernel(d.kernel, mount, e, own) })
	d.metrics.PolicyLoaded(d.policies.Engine().Generation(), err == nil)
	if err != nil {
		return withHint(err, "headgate policy check "+d.cfg.Policies+" shows every mistake")
	}
	for _, name := range d.policies.Engine().Unresolved() {
		d.log.Warn().Str("host", name).Msg("host name of a resource has no address")
	}
	if d.gateway != nil {
		d.gateway.Reassess(ctx)
	}
	return nil
}

// ownPorts are those that agents may not reach, beside the proxy's, which the
// kernel side knows by itself.
func (d *daemon) ownPorts() ([]uint16, error) {
	if d.cfg.Metrics.Listen == "" {
		return nil, nil
	}
	_, port, err := net.SplitHostPort(d.cfg.Metrics.Listen)
	if err != nil {
		return nil, fmt.Errorf("read metrics.listen: %w", err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("read metrics.listen: %w", err)
	}
	return []uint16{uint16(n)}, nil
}

// listen opens the proxy's port on both loopback addresses: a redirect keeps
// the family that the agent used.
func (d *daemon) listen(context.Context) error {
	for _, addr := range []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback} {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: addr, Port: int(d.cfg.Intercept.Port)})
		if err != nil {
			return withHint(err, "intercept.port in the configuration chooses another one")
		}
		listener := transparent.NewListener(l, d.kernel)
		listener.Refused = func(remote net.Addr, cause error) {
			d.metrics.Error(metrics.StageAccept)
			d.log.Warn().Stringer("remote", remote).Err(cause).Msg("connection without an origin was reset")
		}
		d.listeners = append(d.listeners, listener)
	}
	return nil
}

func (d *daemon) makeGateway(ctx context.Context) error {
	credentials, err := credential.New(d.cfg.CredentialSpecs(resolve(ctx, d.cfg.CredentialHosts())))
	if err != nil {
		return err
	}
	d.gateway, err = gateway.New(gateway.Options{
		Engine:      d.policies.Engine,
		Protocols:   d.protocols,
		Opaque:      all.Opaque(),
		Processes:   d.tree,
		Seed:        d.seed,
		Agent:       d.policies.Agent,
		Principals:  d.binder,
		Credentials: credentials,
		Dialer:      upstream.Dialer{},
		Audit:       d.audit,
		Metrics:     d.metrics,
		Log:         d.log,
		Limits: gateway.Limits{
			Sessions:    int(d.cfg.Limits.Sessions),
			PerTree:     int(d.cfg.Limits.SessionsPerTree),
			Attribute:   time.Duration(d.cfg.Limits.Attribute),
			Detect:      time.Duration(d.cfg.Limits.Detect),
			Drain:       time.Duration(d.cfg.Limits.Drain),
			RecordBytes: recordBytes(d.cfg),
		},
	})
	return err
}

func (d *daemon) openSockets(ctx context.Context) (err error) {
	if d.control, err = control.Listen(d.cfg.Control.Socket); err != nil {
		return err
	}
	if d.cfg.Metrics.Listen == "" {
		return nil
	}
	var lc net.ListenConfig
	d.scrape, err = lc.Listen(ctx, "tcp", d.cfg.Metrics.Listen)
	return err
}

// announce lets the kernel redirect to us.
func (d *daemon) announce(context.Context) error {
	if err := d.kernel.Heartbeat(); err != nil {
		return err
	}
	if err := d.kernel.SetHeartbeatLimit(time.Duration(d.cfg.Intercept.Heartbeat)); err != nil {
		return err
	}
	cookie, err := kernel.NetnsCookie()
	if err != nil {
		return err
	}
	return d.kernel.SetListener(cookie, d.cfg.Intercept.Port)
}

// run mediates until the context ends or a part of the daemon fails, then closes
// everything. What is pinned stays and refuses.
func (d *daemon) run(asked context.Context) error {
	group, ctx := errgroup.WithContext(context.WithoutCancel(asked))
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group.Go(func() error { return d.withdraw(asked, ctx, stop) })
	group.Go(func() error { return d.readEvents(ctx) })
	for _, l := range d.listeners {
		group.Go(func() error { return d.gateway.Serve(ctx, l) })
	}
	group.Go(func() error { return control.Serve(ctx, d.control, d.api()) })
	group.Go(func() error { return d.serveMetrics(ctx) })
	group.Go(func() error { return d.beat(ctx) })
	group.Go(func() error { return d.reloadOnHangup(ctx) })
	d.notify(sdnotify.SdNotifyReady)
	d.log.Info().Str("cgroup", d.cgroupPath()).Uint16("port", d.cfg.Intercept.Port).
		Uint64("generation", d.policies.Engine().Generation()).Msg("mediating")
	err := group.Wait()
	d.notify(sdnotify.SdNotifyStopping)
	reason := "asked to"
	if err != nil {
		reason = err.Error()
	}
	return errors.Join(err, d.audit.Append(audit.KindDaemonStop, audit.DaemonStop{Reason: reason}), d.close())
}

// withdraw takes the kernel's leave to redirect to us before anything is closed:
// nobody may be sent to a port behind which we are not.
func (d *daemon) withdraw(asked, serving context.Context, stop func()) error {
	defer stop()
	select {
	case <-asked.Done():
	case <-serving.Done():
	}
	return d.kernel.Suspend()
}

func (d *daemon) cgroupPath() string {
	if d.cfg.Intercept.Cgroup == "" {
		return "(root)"
	}
	return d.cfg.Intercept.Cgroup
}

// notify tells systemd, where there is one.
func (d *daemon) notify(state string) {
	if _, err := sdnotify.SdNotify(false, state); err != nil {
		d.log.Warn().Err(err).Msg("systemd not told")
	}
}

// readEvents takes in what happens to enrolled processes until ctx ends.
func (d *daemon) readEvents(ctx context.Context) error {
	if err := d.kernel.Events(ctx, d.observe); ctx.Err() == nil {
		return err
	}
	return nil
}

// observe takes in what happened to a process. The reader waits for it.
func (d *daemon) observe(ev process.Event) error {
	if err := d.tree.Apply(ev); err != nil {
		// The process stays enrolled; its lineage is partial from here on.
		d.log.Error().Err(err).Uint32("pid", ev.ID.PID).Msg("process event not taken in")
	}
	return nil
}

// beat refreshes the heartbeat, without which the kernel side refuses.
func (d *daemon) beat(ctx context.Context) error {
	interval := max(time.Duration(d.cfg.Intercept.Heartbeat)/4, 100*time.Millisecond)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var lost uint64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := errors.Join(d.kernel.Heartbeat(), d.reconcile(&lost)); err != nil {
				return err
			}
			d.notify(sdnotify.SdNotifyWatchdog)
		}
	}
}

// reconcile forgets the processes whose exit was among events that were lost:
// they would be taken for living ones for ever. lost is how many were at the last
// time.
func (d *daemon) reconcile(lost *uint64) error {
	counters, err := d.kernel.Counters()
	if err != nil || counters["events_lost"] == *lost {
		return err
	}
	*lost = counters["events_lost"]
	alive, asOf, err := d.kernel.Alive()
	if err != nil {
		return err
	}
	d.tree.Retain(alive, asOf)
	d.log.Warn().Uint64("lost", *lost).Msg("process events were lost; lineages are partial")
	return nil
}

func (d *daemon) reloadOnHangup(ctx context.Context) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			if err := d.loadPolicy(ctx); err != nil {
				d.log.Error().Err(err).Msg("policy not reloaded; the old one stays in force")
			}
		}
	}
}

func (d *daemon) serveMetrics(ctx context.Context) error {
	if d.scrape == nil {
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", d.metrics.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10}
	stop := context.AfterFunc(ctx, func() {
		// That it was closed before is no news.
		_ = server.Close()
	})
	defer stop()
	if err := server.Serve(d.scrape); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// close closes what was opened, backwards.
func (d *daemon) close() error {
	var errs []error
	note := func(err error) {
		if err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if d.scrape != nil {
		note(d.scrape.Close())
	}
	if d.control != nil {
		note(d.control.Close())
	}
	for _, l := range d.listeners {
		note(l.Close())
	}
	if d.kernel != nil {
		note(d.kernel.Close())
	}
	if d.leave != nil {
		note(d.leave())
	}
	if d.audit != nil {
		note(d.audit.Close())
	}
	return errors.Join(errs...)
}
