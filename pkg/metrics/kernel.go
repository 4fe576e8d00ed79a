package metrics

import (
	"maps"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// KernelStats is what the kernel side has counted since its maps were made.
type KernelStats struct {
	// AttachedPrograms is how many BPF programs are attached at this moment.
	AttachedPrograms int
	// Redirects counts connects of enrolled processes.
	Redirects map[Redirect]uint64
	// EventsLost counts events that found no room in the ring buffer.
	EventsLost uint64
	// Denied counts connects that were refused in the kernel, by reason: a word
	// of the code.
	Denied map[string]uint64
	// Escapes counts what agents tried past the proxy, by kind: a word of the code.
	Escapes map[string]uint64
	// Unaccounted is how many redirected connections are in no session.
	Unaccounted uint64
	// Active says that a probe has just proven that agents are mediated.
	Active bool
	// RefusalsLost counts refusals that were counted, but not reported.
	RefusalsLost uint64
	// InflightOrigins is how many connects have a record that no accept has
	// taken up yet.
	InflightOrigins int
	// Direct is what went past the proxy by a rule, by the rule's name.
	Direct map[string]DirectFlows
}

// Redirect says what became of a connect.
type Redirect struct {
	Family string // "inet" or "inet6"
	Result string // "redirected", "passthrough" or "failed"
}

// Kernel sets where the kernel's figures come from: read is called at each
// scrape, and must be safe for concurrent use. Where it fails, the scrape has
// none of these metrics, an alert's reason to fire, and headgate_kernel_up is 0.
// nil takes it away. Without it, headgate_kernel_up is 0 as well.
func (s *Set) Kernel(read func() (KernelStats, error)) {
	if s != nil {
		s.kernel.mu.Lock()
		defer s.kernel.mu.Unlock()
		s.kernel.read = read
	}
}

// kernelCollector turns KernelStats into metrics, at each scrape.
type kernelCollector struct {
	up, programs, redirects, lost, denied, inflight *prometheus.Desc
	escapes, unaccounted, active, refusalsLost      *prometheus.Desc
	direct                                          *directCollector

	mu   sync.Mutex
	read func() (KernelStats, error)
}

func newKernelCollector() *kernelCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("headgate_"+name, help, labels, nil)
	}
	return &kernelCollector{
		direct:    newDirectCollector(),
		up:        desc("kernel_up", "Whether the figures of the kernel side could be read."),
		programs:  desc("attached_programs", "BPF programs that are attached."),
		redirects: desc("redirects_total", "Connects of enrolled processes, by address family and what became of them.", "family", "result"),
		lost:      desc("kernel_events_lost_total", "Process events that found no room in the ring buffer."),
		denied:    desc("kernel_denied_total", "Connects that were refused in the kernel, by reason.", "reason"),
		inflight:  desc("inflight_origins", "Redirected connects that the proxy has not accepted yet."),
		escapes:   desc("escape_attempts_total", "What agents tried past the proxy, by kind; all of it was refused, or reported where the policy only observes.", "kind"),

		unaccounted:  desc("unaccounted_connections", "Redirected connections that are in no session. Anything but 0 is a fault of headgate's."),
		active:       desc("enforcement_active", "1 if the latest probe by an enrolled process came to the proxy and was refused otherwise, as it must be."),
		refusalsLost: desc("kernel_refusals_lost_total", "Refusals that were counted by reason but found no room in the ring buffer, and are not in the record."),
	}
}

// Describe implements [prometheus.Collector].
func (k *kernelCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{k.up, k.programs, k.redirects, k.lost, k.denied, k.inflight, k.escapes, k.unaccounted, k.active, k.refusalsLost} {
		ch <- d
	}
	k.direct.describe(ch)
}

// Collect implements [prometheus.Collector].
func (k *kernelCollector) Collect(ch chan<- prometheus.Metric) {
	k.mu.Lock()
	read := k.read
	k.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	if read == nil {
		gauge(k.up, 0)
		gauge(k.active, 0)
		return
	}
	stats, err := read()
	if err != nil {
		gauge(k.up, 0)
		gauge(k.active, 0)
		return
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(k.up, 1)
	gauge(k.programs, float64(stats.AttachedPrograms))
	gauge(k.inflight, float64(stats.InflightOrigins))
	counter(k.lost, stats.EventsLost)
	counter(k.refusalsLost, stats.RefusalsLost)
	gauge(k.unaccounted, float64(stats.Unaccounted))
	active := 0.0
	if stats.Active {
		active = 1
	}
	gauge(k.active, active)
	k.direct.collect(ch, stats.Direct)
	for kind, n := range capped(stats.Escapes) {
		counter(k.escapes, n, kind)
	}
	for r, n := range known(stats.Redirects) {
		counter(k.redirects, n, r.Family, r.Result)
	}
	for reason, n := range capped(stats.Denied) {
		counter(k.denied, n, reason)
	}
}

// known adds up what is in no vocabulary as [Other].
func known(m map[Redirect]uint64) map[Redirect]uint64 {
	kept := make(map[Redirect]uint64, len(m))
	for r, n := range m {
		if !slices.Contains([]string{"inet", "inet6"}, r.Family) || !slices.Contains([]string{"redirected", "passthrough", "failed"}, r.Result) {
			r = Redirect{Other, Other}
		}
		kept[r] += n
	}
	return kept
}

// capped keeps the first reasons in the order of their names and adds up the
// rest as [Other].
func capped(m map[string]uint64) map[string]uint64 {
	kept := make(map[string]uint64, enum+1)
	for i, reason := range slices.Sorted(maps.Keys(m)) {
		if i >= enum || !utf8.ValidString(reason) {
			kept[Other] += m[reason]
			continue
		}
		kept[reason] += m[reason]
	}
	return kept
}
