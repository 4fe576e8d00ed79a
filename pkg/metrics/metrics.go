// Package metrics counts what headgate does, for Prometheus.
//
// A [Set] has a registry of its own; nothing is global. All names start with
// "headgate_", units are base units, counters end in "_total". No label takes a
// value that an agent controls, and in case one does by mistake, every label
// has a budget: values beyond it are counted as [Other], and the overflow is
// counted too.
//
// The vocabulary of stages, verdicts and the like is here too, as constants.
package metrics

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// The stages of a session: how far it had come when something was decided or
// went wrong. They follow the spine of the gateway.
const (
	StageAccept    = "accept"
	StageAttribute = "attribute"
	StageIdentify  = "identify"
	StageDetect    = "detect"
	StageDecide    = "decide"
	StageExchange  = "exchange"
)

// The verdicts. WouldDeny is what observe mode counts where enforce would deny.
const (
	VerdictAllow     = "allow"
	VerdictDeny      = "deny"
	VerdictWouldDeny = "would_deny"
)

// The directions of [Set.Bytes], seen from the agent.
const (
	Up   = "up"
	Down = "down"
)

// The results of [Set.Attribution].
const (
	AttributionFull    = "full"
	AttributionPartial = "partial"
	AttributionNone    = "none"
)

// Other is the label value for everything beyond a label's budget.
const Other = "__other__"

// Set is everything that is counted. All methods are safe for concurrent use,
// and do nothing on a nil Set.
type Set struct {
	registry *prometheus.Registry
	overflow *prometheus.CounterVec
	kernel   *kernelCollector

	decisions    *bounded[prometheus.Counter]
	statements   *bounded[prometheus.Counter]
	masked       *bounded[prometheus.Counter]
	findings     *bounded[prometheus.Counter]
	errors       *bounded[prometheus.Counter]
	attribution  *bounded[prometheus.Counter]
	bytes        *bounded[prometheus.Counter]
	sessions     *bounded[prometheus.Counter]
	verification *bounded[prometheus.Counter]
	dialErrors   *bounded[prometheus.Counter]
	active       *bounded[prometheus.Gauge]
	durations    *bounded[prometheus.Observer]
	decide       prometheus.Histogram

	policyGeneration prometheus.Gauge
	policySuccessful prometheus.Gauge
	policyTime       prometheus.Gauge
	policyLoads      *bounded[prometheus.Counter]
}

// Budgets of labels by kind of value: how many values the program or the
// configuration can have, with room.
const (
	protocols = 16
	enum      = 20  // values from a list in the code
	verbs     = 64  // a protocol's vocabulary
	rules     = 200 // names in the policy
	detectors = 30
	issuers   = 20
)

// New builds a set with a registry of its own, which also has the standard Go
// and process metrics.
func New(version string) *Set {
	s := &Set{registry: prometheus.NewRegistry()}
	// A name that is registered twice is a mistake of this package, which
	// every test that calls New finds.
	s.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	s.build(s.registry)
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "headgate_build_info",
		Help:        "Always 1; the labels tell the version and the Go release that built it.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	info.Set(1)
	s.registry.MustRegister(info)
	return s
}

func (s *Set) build(r prometheus.Registerer) {
	s.overflow = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "headgate_metrics_label_overflow_total",
		Help: "Label values counted as __other__ because a label's budget was used up.",
	}, []string{"metric"})
	s.kernel = newKernelCollector()
	r.MustRegister(s.overflow, s.kernel)

	s.decisions = s.counter(r, "headgate_decisions_total", "Decisions on connections and operations.",
		label{"protocol", protocols}, label{"verdict", enum}, label{"rule", rules}, label{"stage", enum})
	s.statements = s.counter(r, "headgate_statements_total", "Operations by what they are, in the protocol's vocabulary.",
		label{"protocol", protocols}, label{"verb", verbs}, label{"verdict", enum})
	s.masked = s.counter(r, "headgate_masked_values_total", "Values rewritten before they reached an agent, by detector, or \"column\" for a column rule.",
		label{"protocol", protocols}, label{"detector", detectors})
	s.findings = s.counter(r, "headgate_findings_total", "Secrets that were seen where they have no business: an agent that logs in with one, a target that returns one.",
		label{"protocol", protocols}, label{"finding", enum})
	s.errors = s.counter(r, "headgate_errors_total", "Sessions that an error ended, by the stage it happened in.",
		label{"stage", enum})
	s.attribution = s.counter(r, "headgate_attribution_total", "Connections by how well their process is known: full, partial or none.",
		label{"result", enum})
	s.bytes = s.counter(r, "headgate_session_bytes_total", "Bytes forwarded, by direction as the agent sees it.",
		label{"protocol", protocols}, label{"direction", enum})
	s.sessions = s.counter(r, "headgate_sessions_total", "Sessions that have ended, by what ended them.",
		label{"protocol", protocols}, label{"end", enum})
	s.verification = s.counter(r, "headgate_identity_verifications_total", "Identity tokens that were checked, by configured issuer and result.",
		label{"issuer", issuers}, label{"result", enum})
	s.dialErrors = s.counter(r, "headgate_upstream_dial_errors_total", "Failures to connect to a target, by reason.",
		label{"protocol", protocols}, label{"reason", enum})
	s.policyLoads = s.counter(r, "headgate_policy_loads_total", "Attempts to load a policy, by result.",
		label{"result", enum})
	s.active = s.gauge(r, "headgate_sessions_active", "Sessions open at this moment.", label{"protocol", protocols})
	s.durations = s.histogram(r, "headgate_session_duration_seconds", "How long sessions lasted.", label{"protocol", protocols})

	s.decide = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "headgate_decide_seconds",
		Help:    "Time to decide on an operation: policy, facts and audit, without the wait for a person.",
		Buckets: []float64{1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 1e-2, 1e-1, 1},
	})
	s.policyGeneration = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "headgate_policy_generation",
		Help: "Generation of the policy in force; it grows with each one that was loaded.",
	})
	s.policySuccessful = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "headgate_policy_last_load_successful",
		Help: "Whether the last attempt to load a policy succeeded; if not, the one before is in force.",
	})
	s.policyTime = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "headgate_policy_last_load_success_timestamp_seconds",
		Help: "When the policy in force was loaded, in seconds since the epoch.",
	})
	r.MustRegister(s.decide, s.policyGeneration, s.policySuccessful, s.policyTime)
	s.zero()
}

// zero makes the series that alerts look at, so that their first increase is one.
func (s *Set) zero() {
	for _, stage := range []string{StageAccept, StageAttribute, StageIdentify, StageDetect, StageDecide, StageExchange} {
		s.errors.get(stage)
	}
	for _, result := range []string{AttributionFull, AttributionPartial, AttributionNone} {
		s.attribution.get(result)
	}
	for _, result := range []string{loadOK, loadFailed} {
		s.policyLoads.get(result)
	}
}

const (
	loadOK     = "ok"
	loadFailed = "failed"
)

// Decision counts one decision. The rule is the name of a rule in the policy,
// or "default".
func (s *Set) Decision(protocol, verdict, rule, stage string) {
	if s != nil {
		s.decisions.get(protocol, verdict, rule, stage).Inc()
	}
}

// Decided records how long a decision took.
func (s *Set) Decided(took time.Duration) {
	if s != nil {
		s.decide.Observe(took.Seconds())
	}
}

// Statement counts one operation by its verb.
func (s *Set) Statement(protocol, verb, verdict string) {
	if s != nil {
		s.statements.get(protocol, verb, verdict).Inc()
	}
}

// Masked counts n values that were rewritten. The detector is a name of
// mask.Detectors, or "column".
func (s *Set) Masked(protocol, detector string, n int) {
	if s != nil && n > 0 {
		s.masked.get(protocol, detector).Add(float64(n))
	}
}

// Finding counts a secret that was seen where it has no business.
func (s *Set) Finding(protocol, finding string) {
	if s != nil {
		s.findings.get(protocol, finding).Inc()
	}
}

// SessionOpened counts a session as active until [Set.SessionClosed].
func (s *Set) SessionOpened(protocol string) {
	if s != nil {
		s.active.get(protocol).Inc()
	}
}

// SessionClosed counts the end of a session that [Set.SessionOpened] counted
// with the same protocol. The end is a word of the code, not an error's text.
func (s *Set) SessionClosed(protocol, end string, lasted time.Duration) {
	if s != nil {
		s.active.get(protocol).Dec()
		s.sessions.get(protocol, end).Inc()
		s.durations.get(protocol).Observe(lasted.Seconds())
	}
}

// Bytes counts n bytes that were forwarded [Up] or [Down].
func (s *Set) Bytes(protocol, direction string, n int64) {
	if s != nil && n > 0 {
		s.bytes.get(protocol, direction).Add(float64(n))
	}
}

// Error counts a session that failed in a stage.
func (s *Set) Error(stage string) {
	if s != nil {
		s.errors.get(stage).Inc()
	}
}

// DialError counts a failed dial; the reason is one of upstream.Reason.
func (s *Set) DialError(protocol, reason string) {
	if s != nil {
		s.dialErrors.get(protocol, reason).Inc()
	}
}

// Attribution counts a connection by how well its process is known.
func (s *Set) Attribution(result string) {
	if s != nil {
		s.attribution.get(result).Inc()
	}
}

// Verification counts a token that was checked. The issuer is its configured
// name, or "" if no configured one made it; the result is one of
// identity.Reason.
func (s *Set) Verification(issuer, result string) {
	if s != nil {
		s.verification.get(issuer, result).Inc()
	}
}

// PolicyLoaded records an attempt to load a policy. The generation is looked at
// only if it succeeded.
func (s *Set) PolicyLoaded(generation uint64, ok bool) {
	if s == nil {
		return
	}
	if !ok {
		s.policyLoads.get(loadFailed).Inc()
		s.policySuccessful.Set(0)
		return
	}
	s.policyLoads.get(loadOK).Inc()
	s.policySuccessful.Set(1)
	s.policyGeneration.Set(float64(generation))
	s.policyTime.SetToCurrentTime()
}

// Register adds a gauge whose value is read at each scrape, for what another
// package keeps: pending approvals, the size of a queue. The name gets the
// prefix "headgate_". read must be safe for concurrent use and fast.
func (s *Set) Register(name, help string, read func() float64) error {
	if s == nil {
		return nil
	}
	if read == nil {
		return errors.New("register metric: no function")
	}
	err := s.registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "headgate_" + name, Help: help}, read))
	if err != nil {
		return fmt.Errorf("register metric: %w", err)
	}
	return nil
}

// Handler serves the metrics in the formats that Prometheus asks for. A nil Set
// serves 404.
func (s *Set) Handler() http.Handler {
	if s == nil {
		return http.NotFoundHandler()
	}
	return promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{
		Registry:            s.registry,
		MaxRequestsInFlight: 4,
		Timeout:             10 * time.Second,
		ErrorHandling:       promhttp.ContinueOnError,
	})
}
