package metrics

import (
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// exercise counts one of everything.
func exercise(s *Set) {
	s.Decision("http", VerdictAllow, "rule", StageDecide)
	s.Decided(3 * time.Microsecond)
	s.Statement("http", "get", VerdictDeny)
	s.Masked("http", "pan", 2)
	s.SessionOpened("http")
	s.SessionOpened("http")
	s.SessionClosed("http", "agent", time.Second)
	s.Bytes("http", Up, 10)
	s.Bytes("http", Down, 20)
	s.Error(StageExchange)
	s.DialError("http", "refused")
	s.Attribution(AttributionFull)
	s.Verification("ci", "ok")
	s.PolicyLoaded(7, true)
	s.Kernel(func() (KernelStats, error) {
		return KernelStats{
			AttachedPrograms: 9, EventsLost: 1, InflightOrigins: 3,
			Redirects: map[Redirect]uint64{{"inet", "redirected"}: 5},
			Denied:    map[string]uint64{"metadata": 2},
			Escapes:   map[string]uint64{"udp": 1},
			Direct:    map[string]DirectFlows{"unread": {Begun: 4, Flows: 3, Up: 40, Down: 50, Microseconds: 1500000}},
		}, nil
	})
}

func TestMetricsPassTheLinter(t *testing.T) {
	s := New("1.2.3")
	exercise(s)
	problems, err := testutil.GatherAndLint(s.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func scrape(tb testing.TB, s *Set) string {
	tb.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		tb.Fatal(err)
	}
	return string(body)
}

func TestEverythingCountedIsScraped(t *testing.T) {
	s := New("1.2.3")
	exercise(s)
	got := scrape(t, s)
	for _, line := range []string{
		`headgate_decisions_total{protocol="http",rule="rule",stage="decide",verdict="allow"} 1`,
		`headgate_decide_seconds_count 1`,
		`headgate_statements_total{protocol="http",verb="get",verdict="deny"} 1`,
		`headgate_masked_values_total{detector="pan",protocol="http"} 2`,
		`headgate_sessions_active{protocol="http"} 1`,
		`headgate_sessions_total{end="agent",protocol="http"} 1`,
		`headgate_session_duration_seconds_count{protocol="http"} 1`,
		`headgate_session_bytes_total{direction="down",protocol="http"} 20`,
		`headgate_errors_total{stage="exchange"} 1`,
		`headgate_errors_total{stage="accept"} 0`,
		`headgate_upstream_dial_errors_total{protocol="http",reason="refused"} 1`,
		`headgate_attribution_total{result="full"} 1`,
		`headgate_identity_verifications_total{issuer="ci",result="ok"} 1`,
		`headgate_policy_generation 7`,
		`headgate_policy_last_load_successful 1`,
		`headgate_kernel_up 1`,
		`headgate_attached_programs 9`,
		`headgate_redirects_total{family="inet",result="redirected"} 5`,
		`headgate_kernel_events_lost_total 1`,
		`headgate_kernel_denied_total{reason="metadata"} 2`,
		`headgate_inflight_origins 3`,
		`headgate_direct_established_total{rule="unread"} 4`,
		`headgate_direct_flows_total{rule="unread"} 3`,
		`headgate_direct_bytes_total{direction="up",rule="unread"} 40`,
		`headgate_direct_bytes_total{direction="down",rule="unread"} 50`,
		`headgate_direct_seconds_total{rule="unread"} 1.5`,
		`headgate_metrics_label_overflow_total{metric="headgate_decisions_total"} 0`,
		`version="1.2.3"`,
	} {
		if !strings.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
}

func TestAFailedLoadKeepsTheGenerationThatIsInForce(t *testing.T) {
	s := New("")
	s.PolicyLoaded(7, true)
	s.PolicyLoaded(8, false)
	got := scrape(t, s)
	for _, line := range []string{"headgate_policy_generation 7", "headgate_policy_last_load_successful 0", `headgate_policy_loads_total{result="failed"} 1`} {
		if !strings.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
}

func TestRandomLabelValuesStayBounded(t *testing.T) {
	s := New("")
	before, err := testutil.GatherAndCount(s.registry)
	if err != nil {
		t.Fatal(err)
	}
	const n = 10000
	for i := range n {
		v := fmt.Sprint("v", i)
		s.Decision(v, v, v, v)
		s.Statement(v, v, v)
		s.Masked(v, v, 1)
		s.SessionOpened(v)
		s.SessionClosed(v, v, 0)
		s.Bytes(v, v, 1)
		s.Error(v)
		s.DialError(v, v)
		s.Attribution(v)
		s.Verification(v, v)
		s.Decision("http", VerdictAllow, fmt.Sprint("rule", i%150), fmt.Sprint(i%17))
	}
	after, err := testutil.GatherAndCount(s.registry)
	if err != nil {
		t.Fatal(err)
	}
	if after-before > 2*maxSeries {
		t.Errorf("%d series came from random values", after-before)
	}
	got := scrape(t, s)
	for _, want := range []string{
		`headgate_errors_total{stage="__other__"}`,
		`headgate_decisions_total{protocol="__other__",rule="__other__",stage="__other__",verdict="__other__"}`,
		`headgate_sessions_active{protocol="__other__"} 0`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if got := testutil.ToFloat64(s.overflow.WithLabelValues("headgate_errors_total")); got != n-(enum-6) {
		t.Errorf("overflow counted %v times", got)
	}
	total := 0.0
	for _, series := range s.errors.series {
		total += testutil.ToFloat64(series.series)
	}
	if total != n {
		t.Errorf("%v errors of %d were counted", total, n)
	}
}

func TestCombinationsAreBoundedToo(t *testing.T) {
	s := New("")
	for i := range 200 {
		for j := range 30 {
			s.Decision(fmt.Sprint("p", j%10), fmt.Sprint("v", j%3), fmt.Sprint("r", i), StageDecide)
		}
	}
	if n := testutil.CollectAndCount(s.registry, "headgate_decisions_total"); n > maxSeries+1 {
		t.Errorf("%d series", n)
	}
}

func TestValuesThatAreNoTextDoNotPanic(t *testing.T) {
	s := New("")
	s.Error("\xff")
	s.Error(strings.Repeat("x", maxValue+1))
	s.Kernel(func() (KernelStats, error) {
		denied := map[string]uint64{"\xff": 1, Other: 2}
		for i := range 100 {
			denied[fmt.Sprint("z", i)] = 1
		}
		return KernelStats{Denied: denied, Redirects: map[Redirect]uint64{{"\xff", "x"}: 1, {"inet", "y"}: 2}}, nil
	})
	got := scrape(t, s)
	for _, want := range []string{`headgate_errors_total{stage="__other__"} 2`, `headgate_redirects_total{family="__other__",result="__other__"} 3`} {
		if !strings.Contains(got, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if n := strings.Count(got, "headgate_kernel_denied_total{"); n > enum+1 {
		t.Errorf("%d reasons", n)
	}
}

func TestRulesOfDirectFlowsKeepTheirPlaceInTheBudget(t *testing.T) {
	s := New("")
	flows := map[string]DirectFlows{Other: {Flows: 7}, "\xff": {Flows: 1}}
	s.Kernel(func() (KernelStats, error) { return KernelStats{Direct: flows}, nil })
	for i := range rules {
		flows[fmt.Sprint("r", i)] = DirectFlows{Flows: 1}
	}
	want := func(lines ...string) {
		t.Helper()
		got := scrape(t, s)
		for _, line := range lines {
			if !strings.Contains(got, "headgate_direct_flows_total"+line+"\n") {
				t.Errorf("missing: %s", line)
			}
		}
		if n := strings.Count(got, "headgate_direct_flows_total{"); n != rules+1 {
			t.Errorf("%d rules", n)
		}
	}
	want(`{rule="r0"} 1`, `{rule="r199"} 1`, `{rule="__other__"} 8`)
	// It comes first in the order of names, and too late.
	flows["a"] = DirectFlows{Flows: 100}
	want(`{rule="r0"} 1`, `{rule="r199"} 1`, `{rule="__other__"} 108`)
}

func TestKernelThatCannotBeReadIsVisible(t *testing.T) {
	s := New("")
	check := func(when string) {
		t.Helper()
		got := scrape(t, s)
		if !strings.Contains(got, "headgate_kernel_up 0") || strings.Contains(got, "headgate_attached_programs ") {
			t.Errorf("%s: the scrape does not tell", when)
		}
		if !strings.Contains(got, "headgate_errors_total") {
			t.Errorf("%s: the other metrics are gone", when)
		}
	}
	check("before it was set")
	s.Kernel(func() (KernelStats, error) { return KernelStats{AttachedPrograms: 1}, errors.New("map is gone") })
	check("when it fails")
}

func TestNilSetDoesNothing(t *testing.T) {
	var s *Set
	exercise(s)
	if err := s.Register("x", "X.", func() float64 { return 1 }); err != nil {
		t.Error(err)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 404 {
		t.Errorf("got %d", w.Code)
	}
}

func TestRegisteredGaugesAreReadAtEachScrape(t *testing.T) {
	s := New("")
	n := 0.0
	if err := s.Register("approvals_pending", "Operations that wait for a person.", func() float64 { n++; return n }); err != nil {
		t.Fatal(err)
	}
	scrape(t, s)
	if got := scrape(t, s); !strings.Contains(got, "headgate_approvals_pending 2") {
		t.Error("the gauge was not read again")
	}
	if s.Register("approvals_pending", "Again.", func() float64 { return 0 }) == nil || s.Register("y", "Y.", nil) == nil {
		t.Error("a duplicate, or a gauge without a function, was accepted")
	}
}

func TestCountingIsSafeForConcurrentUse(t *testing.T) {
	s := New("")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				s.Decision("http", VerdictAllow, fmt.Sprint(i*j%300), StageDecide)
				s.Kernel(nil)
			}
			scrape(t, s)
		})
	}
	wg.Wait()
	total := 0.0
	for _, series := range s.decisions.series {
		total += testutil.ToFloat64(series.series)
	}
	if total != 4000 {
		t.Errorf("%v decisions were counted", total)
	}
}

func TestCountingAKnownSeriesAllocatesNothing(t *testing.T) {
	s := New("")
	exercise(s)
	if n := testing.AllocsPerRun(100, func() { s.Decision("http", VerdictAllow, "rule", StageDecide) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecision(b *testing.B) {
	s := New("")
	for b.Loop() {
		s.Decision("http", VerdictAllow, "rule", StageDecide)
	}
}
