package metrics

import (
	"maps"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// DirectFlows sums up TCP connections that a rule let go as asked, past the
// proxy.
type DirectFlows struct {
	Begun, Flows uint64 // established, and those of them that have ended; the rest is of these
	Up, Down     uint64 // bytes, as the agent sees it
	Microseconds uint64
}

// Plus adds.
func (d DirectFlows) Plus(e DirectFlows) DirectFlows {
	return DirectFlows{d.Begun + e.Begun, d.Flows + e.Flows, d.Up + e.Up, d.Down + e.Down, d.Microseconds + e.Microseconds}
}

// Minus takes away a part of d. What is more than d has leaves nothing: two
// scrapes may have read one sum at different times.
func (d DirectFlows) Minus(e DirectFlows) DirectFlows {
	return DirectFlows{
		d.Begun - min(d.Begun, e.Begun), d.Flows - min(d.Flows, e.Flows), d.Up - min(d.Up, e.Up), d.Down - min(d.Down, e.Down),
		d.Microseconds - min(d.Microseconds, e.Microseconds),
	}
}

// Max returns the later of two readings of one sum.
func (d DirectFlows) Max(e DirectFlows) DirectFlows {
	return DirectFlows{
		max(d.Begun, e.Begun), max(d.Flows, e.Flows), max(d.Up, e.Up), max(d.Down, e.Down), max(d.Microseconds, e.Microseconds),
	}
}

// directCollector turns [KernelStats.Direct] into metrics.
type directCollector struct {
	begun, flows, bytes, seconds *prometheus.Desc

	mu   sync.Mutex
	seen map[string]bool // rules that have a label of their own, for good
}

func newDirectCollector() *directCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("headgate_direct_"+name, help, labels, nil)
	}
	return &directCollector{
		begun:   desc("established_total", "TCP connections of agents that a rule let go past the proxy and that were established, by that rule.", "rule"),
		flows:   desc("flows_total", "TCP connections of agents that a rule let go past the proxy and that have ended, by that rule.", "rule"),
		bytes:   desc("bytes_total", "What these connections carried, by direction as the agent sees it.", "rule", "direction"),
		seconds: desc("seconds_total", "How long these connections lasted, together.", "rule"),
		seen:    map[string]bool{},
	}
}

func (c *directCollector) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.begun, c.flows, c.bytes, c.seconds} {
		ch <- d
	}
}

func (c *directCollector) collect(ch chan<- prometheus.Metric, flows map[string]DirectFlows) {
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	for rule, d := range c.admitted(flows) {
		counter(c.begun, float64(d.Begun), rule)
		counter(c.flows, float64(d.Flows), rule)
		counter(c.bytes, float64(d.Up), rule, Up)
		counter(c.bytes, float64(d.Down), rule, Down)
		counter(c.seconds, float64(d.Microseconds)/1e6, rule)
	}
}

// admitted adds up as [Other] the rules beyond the budget. Those that came first
// keep their place: a counter must not vanish.
func (c *directCollector) admitted(flows map[string]DirectFlows) map[string]DirectFlows {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := make(map[string]DirectFlows, len(flows))
	for _, rule := range slices.Sorted(maps.Keys(flows)) {
		fits := len(rule) <= maxValue && utf8.ValidString(rule) && len(c.seen) < rules
		if fits && rule != Other {
			c.seen[rule] = true
		}
		label := rule
		if !c.seen[rule] {
			label = Other
		}
		kept[label] = kept[label].Plus(flows[rule])
	}
	return kept
}
