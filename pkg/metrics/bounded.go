package metrics

import (
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// label is a label's name and how many different values it may take.
type label struct {
	name   string
	budget int
}

const (
	maxLabels = 4
	maxValue  = 128 // bytes of a label value
	// maxSeries bounds the combinations of one metric, whatever the budgets of
	// its labels multiply to.
	maxSeries = 4096
)

type labelValues [maxLabels]string

// bounded is a metric whose labels keep within their budgets. The first values
// that come keep their place for good: a counter must not vanish, and what was
// counted up under one label must be counted down under the same.
type bounded[T any] struct {
	labels   []label
	overflow prometheus.Counter
	with     func(values ...string) T

	// last is what was asked for last: mostly it is asked for again.
	last atomic.Pointer[one[T]]

	mu     sync.RWMutex
	series map[labelValues]*one[T]
	seen   []map[string]bool
}

// one is the series of some values. It is immutable.
type one[T any] struct {
	key    labelValues
	series T
}

func newBounded[T any](overflow prometheus.Counter, labels []label, with func(...string) T) *bounded[T] {
	b := &bounded[T]{labels: labels, overflow: overflow, with: with, series: map[labelValues]*one[T]{}}
	for range labels {
		b.seen = append(b.seen, map[string]bool{})
	}
	return b
}

// get returns the series for the values, of which there must be as many as labels.
func (b *bounded[T]) get(values ...string) T {
	var key labelValues
	copy(key[:], values)
	if last := b.last.Load(); last != nil && last.key == key {
		return last.series
	}
	b.mu.RLock()
	known, ok := b.series[key]
	b.mu.RUnlock()
	if ok {
		b.last.Store(known)
		return known.series
	}
	return b.admit(key)
}

// admit replaces values beyond a budget by [Other] and makes the series.
func (b *bounded[T]) admit(key labelValues) T {
	b.mu.Lock()
	defer b.mu.Unlock()
	over := false
	for i := range b.labels {
		if !b.fits(i, key[i]) {
			key[i], over = Other, true
		}
	}
	if _, ok := b.series[key]; !ok && len(b.series) >= maxSeries {
		over = true
		for i := range b.labels {
			key[i] = Other
		}
	}
	if over {
		b.overflow.Inc()
	}
	known, ok := b.series[key]
	if !ok {
		known = &one[T]{key, b.with(key[:len(b.labels)]...)}
		b.series[key] = known
	}
	return known.series
}

func (b *bounded[T]) fits(i int, value string) bool {
	if value == Other || b.seen[i][value] {
		return true
	}
	if len(b.seen[i]) >= b.labels[i].budget || len(value) > maxValue || !utf8.ValidString(value) {
		return false
	}
	b.seen[i][value] = true
	return true
}

func names(labels []label) []string {
	var n []string
	for _, l := range labels {
		n = append(n, l.name)
	}
	return n
}

func (s *Set) counter(r prometheus.Registerer, name, help string, labels ...label) *bounded[prometheus.Counter] {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, names(labels))
	r.MustRegister(vec)
	return newBounded(s.overflow.WithLabelValues(name), labels, vec.WithLabelValues)
}

func (s *Set) gauge(r prometheus.Registerer, name, help string, labels ...label) *bounded[prometheus.Gauge] {
	vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, names(labels))
	r.MustRegister(vec)
	return newBounded(s.overflow.WithLabelValues(name), labels, vec.WithLabelValues)
}

func (s *Set) histogram(r prometheus.Registerer, name, help string, labels ...label) *bounded[prometheus.Observer] {
	vec := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.001, 4, 12), // 1 ms to 70 min
	}, names(labels))
	r.MustRegister(vec)
	return newBounded(s.overflow.WithLabelValues(name), labels, vec.WithLabelValues)
}
