package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/certs"
	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/credential/rds"
	"github.com/headgate/headgate/pkg/gateway"
	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/kernel"
	"github.com/headgate/headgate/pkg/metrics"
	"github.com/headgate/headgate/pkg/names"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/all"
	"github.com/headgate/headgate/pkg/record"
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
	cfg        *config.Config
	log        zerolog.Logger
	metrics    *metrics.Set
	store      store
	audit      *audit.Log
	authority  *certs.Authority
	inherited  map[uint64]*proxy // by network namespace
	attachedTo string
	below      bool         // whether the attach point is below the root
	leave      func() error // back to the cgroup that the process came from
	kernel     *kernel.Kernel
	protocols  []protocol.Protocol
	loading    sync.Mutex // one load of the policy at a time
	policies   *policies
	direct     directRules
	agents     *agents
	tree       *process.Tree
	names      *names.Table
	trusted    atomic.Pointer[[]netip.AddrPort]
	binder     *identity.Binder
	canary     *canary
	proxies    *proxies
	gateway    *gateway.Gateway
	ledger     ledger
	control    *net.UnixListener
	scrape     net.Listener
}

// startDaemon opens everything that the daemon needs and tells the kernel about
// it last, so that nothing is redirected to a proxy that can't serve. If a part
// fails, what was opened is closed again.
func startDaemon(ctx context.Context, cfg *config.Config, log zerolog.Logger) (_ *daemon, err error) {
	d := &daemon{
		cfg: cfg, log: log, metrics: metrics.New(version()), store: openStore(os.Getenv),
		tree: process.NewTree(int(cfg.Limits.Processes)), names: names.New(names.Limits{}), binder: &identity.Binder{},
	}
	d.ledger.d = d
	warnOnHost(&log, cfg, os.ReadFile)
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
		{"open certificates", d.openAuthority},
		{"take over sockets", d.inherit},
		{"open kernel side", d.openKernel},
		{"bound memory", d.boundMemory}, // in the cgroup that the daemon stays in
		{"prepare protocols", d.openProtocols},
		{"listen", d.listen},
		{"load policy", d.loadPolicy},
		{"take over trees", d.seedAll},
		{"make gateway", d.makeGateway},
		{"open sockets", d.openSockets},
		{"start mediating", d.announce},
		{"take in who runs already", d.begin},
	} {
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return d, nil
}

// lockPatience is how long the log of a daemon that was killed may still be in
// use: a child that it had forked and that had not executed anything yet has it
// open, too.
const lockPatience = 2 * time.Second

func openLog(ctx context.Context, cfg *config.Config) (*audit.Log, error) {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		log, err := audit.OpenLog(cfg.State, auditOptions(cfg))
		if !errors.Is(err, record.ErrLocked) {
			return log, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-again.C:
		}
	}
}

func (d *daemon) openAudit(ctx context.Context) (err error) {
	d.audit, err = openLog(ctx, d.cfg)
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

func (d *daemon) openProtocols(context.Context) error {
	d.protocols = all.Protocols(protocolSettings(d.cfg))
	return warm(d.protocols)
}

func (d *daemon) makeGateway(ctx context.Context) error {
	credentials, err := credential.New(d.cfg.CredentialSpecs(resolve(ctx, d.cfg.CredentialHosts())), credential.WithRDS(rds.New(dialName).Token))
	if err != nil {
		return err
	}
	d.gateway, err = gateway.New(gateway.Options{
		Engine:        d.policies.Engine,
		Protocols:     d.protocols,
		Opaque:        all.Opaque(),
		Processes:     d.tree,
		Seed:          d.seed,
		Agent:         d.policies.Agent,
		Principals:    d.binder,
		Authority:     d.authority,
		Credentials:   credentials,
		Home:          d.proxies.home,
		Dialer:        upstream.Dialer{Namespaces: d.proxies.dialFrom},
		Datagram:      all.Datagram(d.protocols),
		Names:         d.names,
		TrustedServer: d.trust,
		Audit:         d.audit,
		Metrics:       d.metrics,
		Log:           d.log,
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
	if err := d.authority.Publish(authorityPath(d.cfg.Control.Socket)); err != nil {
		return err
	}
	if d.cfg.Metrics.Listen == "" {
		return nil
	}
	var lc net.ListenConfig
	d.scrape, err = lc.Listen(ctx, "tcp", d.cfg.Metrics.Listen)
	return err
}

// run mediates until the context ends or a part of the daemon fails, then closes
// everything. What is pinned stays and refuses.
func (d *daemon) run(asked context.Context) error {
	group, ctx := errgroup.WithContext(context.WithoutCancel(asked))
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// The heart beats until the last session has drained.
	beating, still := context.WithCancel(context.WithoutCancel(asked))
	defer still()
	group.Go(func() error { return d.withdraw(asked, ctx, stop) })
	group.Go(func() error { return d.readEvents(ctx) })
	group.Go(func() error { defer still(); return d.proxies.run(ctx) })
	group.Go(func() error { return control.Serve(ctx, d.control, d.api()) })
	group.Go(func() error { return d.serveMetrics(ctx) })
	group.Go(func() error { return d.beat(beating) })
	group.Go(func() error { return (&refusals{d: d}).watch(ctx) })
	group.Go(func() error { return d.agents.watch(ctx) })
	group.Go(func() error { return d.canary.watch(ctx, d) })
	group.Go(func() error { return d.reloadOnHangup(ctx) })
	group.Go(func() error { return d.watchPolicies(ctx) })
	d.notify(sdnotify.SdNotifyReady)
	d.log.Info().Str("cgroup", d.cgroupPath()).Uint16("port", d.cfg.Intercept.Port).
		Uint64("generation", d.policies.Engine().Generation()).Msg("mediating")
	err := group.Wait()
	d.notify(sdnotify.SdNotifyStopping)
	reason := "asked to"
	if err != nil {
		reason = err.Error()
	}
	return errors.Join(err, d.audit.Append(audit.KindDaemonStop, audit.DaemonStop{Reason: reason}), d.handOver(), d.close())
}

// withdraw ends the service when that is asked for. Where nobody keeps the
// sockets for the next daemon, it first takes the kernel's leave to redirect to
// us: nobody may be sent to a port behind which we are not.
func (d *daemon) withdraw(asked, serving context.Context, stop func()) error {
	defer stop()
	select {
	case <-asked.Done():
	case <-serving.Done():
	}
	if d.store.kept() {
		return nil
	}
	return d.kernel.Suspend()
}

// handOver lets connections queue for the next daemon. If the manager does not
// keep the sockets after all, nobody listens, and the kernel side refuses.
func (d *daemon) handOver() error {
	if !d.store.kept() {
		return nil
	}
	return d.kernel.HandOver(startRoom)
}

// begin opens the ledger, and takes in who runs already.
func (d *daemon) begin(ctx context.Context) error {
	if err := d.ledger.open(); err != nil {
		return err
	}
	return d.agents.start(ctx)
}

// inherit takes the sockets that the daemon before left with the service
// manager.
func (d *daemon) inherit(context.Context) error {
	var err error
	if d.inherited, err = adoptable(d.store.inherited(), d.cfg.Intercept.Port); err != nil {
		d.log.Warn().Err(err).Msg("descriptors were passed that cannot be used")
	}
	return nil
}

func (d *daemon) listen(ctx context.Context) (err error) {
	if d.canary, err = newCanary(); err != nil {
		return err
	}
	mount, err := cgroup.Mount()
	if err != nil {
		return err
	}
	d.agents = &agents{d: d, mount: mount}
	if d.proxies, err = newProxies(d); err != nil {
		return err
	}
	return d.proxies.listen(ctx, d.inherited)
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
	if d.proxies != nil {
		note(d.proxies.close())
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
