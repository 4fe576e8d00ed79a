package bench

import (
	"context"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/headgate/headgate/pkg/internal/pgtest"
)

// The paths' names.
const (
	direct    = "direct"
	pgbouncer = "pgbouncer"
	haproxy   = "haproxy"
	gate      = "headgate"
	gatePlain = "headgate, no masks"
	gateRelay = "headgate, relay"
	inKernel  = "headgate, in the kernel"
)

// pathNames returns them in the order in which they are shown.
func pathNames() []string {
	return []string{direct, haproxy, pgbouncer, inKernel, gateRelay, gatePlain, gate}
}

// path is a way from a client to its target.
type path struct {
	name string
	host string
	port string
	// enrolled clients are agents.
	enrolled bool
	// password is whether a client has to know it.
	password bool
	// proxy is what is on the way, or nil.
	proxy *process
}

// place is a target: the port at which it listens, and those at which peers
// that lead to it do. Without one of those, the peer is left out.
type place struct {
	port, haproxy, pgbouncer string
}

func (r *rig) database5432() place {
	return place{r.port, strconv.Itoa(haproxyPort), strconv.Itoa(pgbouncerPort)}
}

// paths returns the ways to a target, those of the names that it has.
func (r *rig) paths(p place, names ...string) []path {
	all := []path{
		{direct, plainHost, p.port, false, true, nil},
		{pgbouncer, peerHost, p.pgbouncer, false, true, r.pgbouncer},
		{haproxy, peerHost, p.haproxy, false, true, r.haproxy},
		{gateRelay, relayHost, p.port, true, true, r.gate},
		{gatePlain, plainHost, p.port, true, false, r.gate},
		{gate, maskedHost, p.port, true, false, r.gate},
		{inKernel, kernelHost, p.port, true, true, r.gate},
	}
	return slices.DeleteFunc(all, func(a path) bool { return a.port == "" || !slices.Contains(names, a.name) })
}

// command is a client's, on its way: as a user without rights, enrolled or not.
func (r *rig) command(ctx context.Context, p path, argv ...string) *exec.Cmd {
	if p.enrolled {
		argv = append([]string{r.program(), "run", "--socket", r.socket("gate"), "--agent", "ci", "--"}, argv...)
	}
	cmd := asNobody(exec.CommandContext(ctx, argv[0], argv[1:]...))
	cmd.Env = r.environment(p)
	return cmd
}

func (r *rig) environment(p path) []string {
	env := []string{"PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin", "PGHOST=" + p.host, "PGPORT=" + p.port, "PGDATABASE=" + pgtest.Database,
		"PGSSLMODE=disable", "PGCONNECT_TIMEOUT=20", "PGUSER=whoever"}
	if p.password {
		env = append(env, "PGUSER="+pgtest.App, "PGPASSWORD="+pgtest.AppPassword)
	}
	return env
}

// clientProgram is this program, where clients can execute it.
func (r *rig) clientProgram() string { return filepath.Join(r.dir, "bench") }

// stopwatch starts one for the path's proxy.
func (r *rig) stopwatch(p path) (*stopwatch, error) {
	w := &stopwatch{base: r.cgroup, server: filepath.Join(r.cgroup, "server")}
	if p.proxy != nil {
		w.pids = []int{p.proxy.pid()}
	}
	var err error
	w.start, err = w.read()
	return w, err
}

// shuffled returns the paths in another order: what one leaves behind would
// always meet the same other one.
func shuffled(paths []path) []path {
	paths = slices.Clone(paths)
	rand.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	return paths
}
