package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/kernel"
	"github.com/headgate/headgate/pkg/policy"
)

// loadPolicy puts what is in the policy directory in force, or says why what is in
// force stays. Whoever asks for it while another load runs waits: what follows from
// an engine must not come after what follows from a newer one.
func (d *daemon) loadPolicy(ctx context.Context) error {
	d.loading.Lock()
	defer d.loading.Unlock()
	var err error
	if d.policies == nil {
		if d.policies, err = newPolicies(d.cfg.Policies, d.audit, d.protocols); err != nil {
			return err
		}
		d.policies.options.Host = hostMode(d.cfg)
	}
	err = d.policies.Load(ctx, d.applyToKernel)
	d.metrics.PolicyLoaded(d.policies.Engine().Generation(), err == nil)
	if err != nil {
		return withHint(err, "headgate policy check "+d.cfg.Policies+" shows every mistake")
	}
	engine := d.policies.Engine()
	d.trusted.Store(trustedServers(engine))
	for _, name := range engine.Unresolved() {
		d.log.Warn().Str("host", name).Msg("host name of a resource has no address")
	}
	if err := lostUnixSockets(d.kernel, engine); err != nil {
		d.log.Warn().Err(err).Msg("rules for unix sockets are not enforced")
	}
	if d.gateway == nil {
		return nil // nobody runs yet whom this concerns
	}
	d.gateway.Reassess(ctx)
	return d.agents.start(ctx)
}

// hostMode is the mode of this host.
func hostMode(cfg *config.Config) policy.Mode {
	if cfg.Mode == config.Observe {
		return policy.Observe
	}
	return policy.Enforce
}

// applyToKernel gives the kernel what it needs of a policy: which destinations
// and sockets are decided without the proxy, and who is an agent.
func (d *daemon) applyToKernel(engine *policy.Engine) error {
	own, err := d.ownPorts()
	if err != nil {
		return err
	}
	if err := d.kernel.SetFailOpen(engine.OnFailure() == policy.Open); err != nil {
		return err
	}
	observe := engine.Mode() == policy.Observe
	// What begins while the rest is changed counts as observed, and ends with it.
	if observe {
		if err := d.kernel.SetObserve(true); err != nil {
			return err
		}
	}
	d.direct.learn(engine)
	// Destinations go first: should there be too many, nobody has been let off.
	if err := d.kernel.SetDestinations(destinations(engine, own)); err != nil {
		return err
	}
	if err := d.kernel.SetUnixSockets(unixSockets(engine)); err != nil {
		return err
	}
	if !observe {
		if err := d.kernel.SetObserve(false); err != nil {
			return err
		}
	}
	return d.agents.apply(engine)
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

var verdicts = map[policy.Static]kernel.Verdict{
	policy.Denied: kernel.Deny, policy.Proxied: kernel.Proxy, policy.Observed: kernel.Observed, policy.Direct: kernel.Direct,
}

// builtinVerdict is that of the daemon's own lists, which policies add to.
func builtinVerdict(engine *policy.Engine) kernel.Verdict {
	if engine.Mode() == policy.Observe {
		return kernel.Observed
	}
	return kernel.Deny
}

func destinations(engine *policy.Engine, own []uint16) []kernel.Destination {
	list := kernel.MetadataDestinations()
	for i := range list {
		list[i].Verdict = builtinVerdict(engine)
	}
	for _, d := range engine.Destinations() {
		one := kernel.Destination{Prefix: d.Prefix, Port: d.Port, Transport: d.Transport, Verdict: verdicts[d.Verdict], Rule: ruleNumber(d.Rule)}
		list = append(list, one)
		if d.Prefix.Addr().IsLoopback() && d.Verdict != policy.Direct {
			// A server on loopback may listen on all of it: another address of it
			// must not be a way round.
			list = append(list, onLoopback(one)...)
		}
	}
	for _, server := range engine.Servers() {
		if server.Port() != 53 {
			addr := server.Addr()
			list = append(list, kernel.Destination{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Port: server.Port(), Verdict: kernel.Proxy})
		}
	}
	for _, port := range own {
		list = append(list, onLoopback(kernel.Destination{Port: port, Verdict: kernel.Deny, Cause: kernel.OwnPort})...)
	}
	return list
}

func onLoopback(d kernel.Destination) []kernel.Destination {
	var list []kernel.Destination
	for _, prefix := range []string{"127.0.0.0/8", "::1/128"} {
		d.Prefix = netip.MustParsePrefix(prefix)
		list = append(list, d)
	}
	return list
}

func uidOf(name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, fmt.Errorf("look up user: %w", err)
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("look up user: %w", err)
	}
	return uint32(n), nil
}

// resolvConf names the host's own name servers.
const resolvConf = "/etc/resolv.conf"

// trustedServers are the name servers whose answers count when a policy allows
// by name: the host's own and those that the policy names.
func trustedServers(engine *policy.Engine) *[]netip.AddrPort {
	servers := engine.Servers()
	// Without the file there are none of the host's own.
	text, _ := os.ReadFile(resolvConf)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(addr.Unmap(), 53))
		}
	}
	return &servers
}

// trust tells whether an answer of a server may count. In another network
// namespace the same address may be anybody's, an agent's own too.
func (d *daemon) trust(server netip.AddrPort, netns uint64) bool {
	servers := d.trusted.Load()
	return servers != nil && netns == d.proxies.home && slices.Contains(*servers, server)
}
