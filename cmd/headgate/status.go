package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/metrics"
)

// api is what the control socket offers.
func (d *daemon) api() control.API {
	return control.API{
		Enrol: d.enrol,
		Status: func(_ context.Context, by control.Caller) (control.Status, error) {
			status, err := d.status()
			if by.UID != 0 {
				status = status.Public()
			}
			return status, err
		},
		Reload: func(ctx context.Context, by control.Caller) (control.Status, error) {
			if err := d.noAgent(by, "reload the policy"); err != nil {
				return control.Status{}, err
			}
			if err := d.loadPolicy(ctx); err != nil {
				return control.Status{}, control.Refuse(422, err.Error(), "the old policy stays in force")
			}
			return d.status()
		},
		Health: func(context.Context, control.Caller) (control.Health, error) { return d.health() },
	}
}

func (d *daemon) status() (control.Status, error) {
	counters, err := d.counters()
	if err != nil {
		return control.Status{}, err
	}
	programs, err := d.kernel.Programs()
	if err != nil {
		return control.Status{}, err
	}
	inflight, err := d.kernel.Inflight()
	if err != nil {
		return control.Status{}, err
	}
	engine := d.policies.Engine()
	seq, _ := d.audit.Head()
	s := control.Status{
		Version: version(), PID: os.Getpid(), Mode: engine.Mode().String(), Generation: engine.Generation(),
		Cgroup: d.cgroupPath(), Port: d.cfg.Intercept.Port, Sessions: d.gateway.Sessions(), Inflight: inflight,
		Counters: counters, Shortcuts: string(d.cfg.Protocols.Shortcuts), AuditSeq: seq, Unresolved: engine.Unresolved(),
	}
	if err := d.policies.LastError(); err != nil {
		s.PolicyErr = err.Error()
	}
	if err := d.audit.Err(); err != nil {
		s.AuditErr = err.Error()
	}
	for _, p := range programs {
		s.Programs = append(s.Programs, control.Program{Name: p.Name, Attach: p.AttachType})
	}
	return s, nil
}

// kernelStats reads the kernel's own counters for a scrape.
func (d *daemon) kernelStats() (metrics.KernelStats, error) {
	counters, err := d.counters()
	if err != nil {
		return metrics.KernelStats{}, err
	}
	programs, err := d.kernel.Programs()
	if err != nil {
		return metrics.KernelStats{}, err
	}
	inflight, err := d.kernel.Inflight()
	if err != nil {
		return metrics.KernelStats{}, err
	}
	flows, err := d.kernel.DirectFlows()
	if err != nil {
		return metrics.KernelStats{}, err
	}
	// While the daemon starts there is nothing to account for.
	var unaccounted uint64
	if d.gateway != nil && d.ledger.opened {
		if unaccounted, err = d.ledger.unaccounted(); err != nil {
			return metrics.KernelStats{}, err
		}
	}
	stats := metrics.KernelStats{
		Unaccounted:      unaccounted,
		Active:           d.canary != nil && d.canary.active.Load(),
		RefusalsLost:     counters["refusals_lost"],
		Escapes:          map[string]uint64{},
		AttachedPrograms: len(programs),
		InflightOrigins:  inflight,
		EventsLost:       counters["events_lost"] + counters["events_malformed"],
		Redirects:        map[metrics.Redirect]uint64{},
		Denied:           map[string]uint64{},
		Direct:           d.direct.name(flows),
	}
	for name, n := range counters {
		if strings.HasPrefix(name, "hardened_") {
			stats.Escapes[name] = n
		}
		if reason, denied := strings.CutPrefix(name, "denied_"); denied {
			stats.Denied[reason] = n
			if isEscape[reason] {
				stats.Escapes[reason] = n
			}
		}
	}
	addRedirects(stats.Redirects, counters)
	return stats, nil
}

// isEscape are the refusals that nobody meets by doing what it was started for.
// The others say that something is not as it should be, or are rules of the
// policy.
var isEscape = map[string]bool{
	"metadata": true, "own_port": true, "udp": true, "egress": true, "protocol": true, "socket_type": true, "unix": true, "bind": true,
}

// counters are the kernel's, less what the canary caused.
func (d *daemon) counters() (map[string]uint64, error) {
	counters, err := d.kernel.Counters()
	if err != nil || d.canary == nil {
		return counters, err
	}
	less := func(n uint64, names ...string) {
		for _, name := range names {
			counters[name] -= min(counters[name], n)
		}
	}
	less(d.canary.refused.Load(), "denied_udp")
	less(d.canary.answered4.Load(), "redirected4", "published", "handed_over")
	less(d.canary.answered6.Load(), "redirected6", "published", "handed_over")
	return counters, nil
}

// addRedirects sorts the kernel's counters into families and results.
func addRedirects(to map[metrics.Redirect]uint64, counters map[string]uint64) {
	for name, r := range map[string]metrics.Redirect{
		"redirected4":       {Family: "inet", Result: "redirected"},
		"redirected6":       {Family: "inet6", Result: "redirected"},
		"redirected_mapped": {Family: "inet6", Result: "redirected"},
		"redirected_udp":    {Family: "inet", Result: "redirected"},
		"direct":            {Family: "inet", Result: "passthrough"},
		"direct_udp":        {Family: "inet", Result: "passthrough"},
		"loopback":          {Family: "inet", Result: "passthrough"},
		"loopback_udp":      {Family: "inet", Result: "passthrough"},
		"passed_open":       {Family: "inet", Result: "passthrough"},
		"observed":          {Family: "inet", Result: "passthrough"},
		"storage_failed":    {Family: "inet", Result: "failed"},
		"inflight_full":     {Family: "inet", Result: "failed"},
	} {
		to[r] += counters[name]
	}
}

func statusCommand(e env) *cobra.Command {
	var socket, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the daemon is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := control.NewClient(socketPath(cmd, socket)).Status(cmd.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(e.stdout).Encode(status)
			}
			return printStatus(e, &status)
		},
	}
	cmd.Flags().StringVar(&socket, "socket", "", "the daemon's control socket (default: as configured)")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func reloadCommand(e env) *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the daemon read its policies again (root)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := control.NewClient(socketPath(cmd, socket)).Reload(cmd.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.stdout, "policy generation %d is in force (%s)\n", status.Generation, status.Mode)
			return err
		},
	}
	cmd.Flags().StringVar(&socket, "socket", "", "the daemon's control socket (default: as configured)")
	return cmd
}

func printStatus(e env, s *control.Status) error {
	p := printer{w: e.stdout}
	p.printf("daemon      pid %d, version %s\n", s.PID, s.Version)
	p.printf("policy      generation %d, %s\n", s.Generation, s.Mode)
	if s.PolicyErr != "" {
		p.printf("            the latest load failed: %s\n", s.PolicyErr)
	}
	for _, host := range s.Unresolved {
		p.printf("            host name without an address: %s\n", host)
	}
	p.printf("attached    %s, proxy on port %d\n", s.Cgroup, s.Port)
	for _, program := range s.Programs {
		p.printf("            %-24s %s\n", program.Name, program.Attach)
	}
	p.printf("sessions    %d, origins in flight %d\n", s.Sessions, s.Inflight)
	if s.Shortcuts != "" { // those who are not told, see little else
		p.printf("protocols   shortcuts %s\n", s.Shortcuts)
	}
	p.printf("record      %d events\n", s.AuditSeq)
	if s.AuditErr != "" {
		p.printf("            refuses, and so everything is denied: %s\n", s.AuditErr)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Counters)) {
		if n := s.Counters[name]; n > 0 {
			p.printf("counter     %-24s %d\n", name, n)
		}
	}
	return p.err
}
