package bench

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/headgate/headgate/pkg/policy"
)

func TestASeriesIsItsMedianAndItsRange(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   Series
		text   string
	}{
		{nil, Series{}, "-"},
		{[]float64{7}, Series{7, 7, 7, 1}, "7.00"},
		{[]float64{300, 100, 200}, Series{200, 100, 300, 3}, "200 [100, 300]"},
		{[]float64{4, 1, 2, 3}, Series{2.5, 1, 4, 4}, "2.50 [1.00, 4.00]"},
	} {
		got := NewSeries(c.values)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.values, diff)
		}
		if got.String() != c.text {
			t.Errorf("%v is written %q, want %q", c.values, got, c.text)
		}
	}
}

// twoRounds are of two paths, of which the second round was slow for both.
func twoRounds() Runs {
	var rs Runs
	for round, factor := range []float64{1, 3} {
		rs = append(rs,
			Run{"pgbench simple", gate, round + 1, map[string]float64{"cpu_us": 12 * factor, "tps": 95 / factor}, 0.02},
			Run{"pgbench simple", pgbouncer, round + 1, map[string]float64{"cpu_us": 10 * factor, "tps": 100 / factor}, 0.4})
	}
	return rs
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	r := rowsP1(twoRounds())[0]
	want := Series{1.2, 1.2, 1.2, 2}
	if diff := cmp.Diff(want, r.Ratio, cmpopts.EquateApprox(0, 1e-9)); diff != "" {
		t.Errorf("ratio (-want +got):\n%s", diff)
	}
	if r.Verdict != met || r.Others != 0.4 {
		t.Errorf("%s, others %v", r.Verdict, r.Others)
	}
}

func TestAVerdictIsAboutTheMedian(t *testing.T) {
	s := Series{Median: 10, Min: 1, Max: 100, N: 3}
	for _, c := range []struct {
		w    bound
		s    Series
		want string
	}{
		{bound{limit: 10}, s, met},
		{bound{limit: 9}, s, missed},
		{bound{10, true}, s, met},
		{bound{11, true}, s, missed},
		{bound{limit: 9}, Series{}, notMeasured},
	} {
		if got := c.w.verdict(c.s); got != c.want {
			t.Errorf("%+v: %s, want %s", c.w, got, c.want)
		}
	}
}

func TestATableHasEveryTargetThatWasAskedFor(t *testing.T) {
	b := &bench{rig: &rig{o: &Options{}}, runs: twoRounds(), missing: map[string]string{"P7": "there is no room"}}
	seen := map[string]bool{}
	for _, r := range b.table() {
		seen[r.Target] = true
		if r.Target == "P7" && r.verdict() != "not measured: there is no room" {
			t.Errorf("P7 is %q", r.verdict())
		}
	}
	if len(seen) != 15 {
		t.Errorf("the table has %v", seen)
	}
	b.o.Only = []string{"P2"}
	for _, r := range b.table() {
		if r.Target != "P2" && r.Verdict == notMeasured {
			t.Errorf("%s was not asked for", r.Target)
		}
	}
}

func TestPgbenchIsUnderstood(t *testing.T) {
	const out = "pgbench (15.20)\nnumber of transactions actually processed: 12345\nnumber of failed transactions: 0 (0.000%)\n" +
		"latency average = 0.1 ms\ntps = 2469.5 (without initial connection time)\n"
	var got transactions
	if err := got.parse(out); err != nil || got.tps != 2469.5 || got.done != 12345 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", strings.Replace(out, "failed transactions: 0", "failed transactions: 3", 1), strings.Replace(out, "tps", "TPS", 1)} {
		if err := new(transactions).parse(bad); err == nil {
			t.Errorf("%q is taken for a result", bad)
		}
	}
}

func TestBenchmarksOfPartsAreUnderstood(t *testing.T) {
	const out = "goos: linux\nBenchmarkAppend/write-2   \t 100\t 2500 ns/op\t 3 allocs/op\n" +
		"BenchmarkAppend/sync-64-2\t 200\t 9000 ns/op\t 44.5 ops/sync\nBenchmarkAppend/sync-64-2\t 200\t 9000 ns/op\t 40.5 ops/sync\nPASS\n"
	b := &bench{}
	list := []part{{"P11", partAudit, "", "BenchmarkAppend/sync-64", "ops/sync", "ops_per_sync", 1}}
	if seen := b.keepParts([]byte(out), list, 0); seen["BenchmarkAppend/sync-64"] != 2 {
		t.Errorf("seen %v", seen)
	}
	if got, want := b.runs.Series(partAudit, partPath, "ops_per_sync"), (Series{42.5, 40.5, 44.5, 2}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOptionsFillInWhatIsNotSaid(t *testing.T) {
	for args, want := range map[string]Options{
		"":                                    {Rounds: 5, Time: 3 * time.Second},
		"-only p1,P12":                        {Only: []string{"P1", "P12"}, Rounds: 3, Time: 2 * time.Second},
		"-only P3 -rounds 7 -time 1 -idle 10": {Only: []string{"P3"}, Rounds: 7, Time: time.Second, Idle: 10},
		"-durability fsync -recording full":   {Rounds: 5, Time: 3 * time.Second, Durability: "fsync", Recording: "full"},
	} {
		want.Clients, want.Gate = 8, "bin/headgate"
		if want.Idle == 0 {
			want.Idle = 1000
		}
		if want.Durability == "" {
			want.Durability, want.Recording = "write", "statements"
		}
		got, err := ParseOptions(strings.Fields(args), io.Discard)
		if err != nil {
			t.Errorf("%q: %v", args, err)
			continue
		}
		if diff := cmp.Diff(want, *got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", args, diff)
		}
	}
	for _, args := range []string{"-only P13", "-rounds -1", "-time 0.1", "-durability later", "-recording some", "P1"} {
		if _, err := ParseOptions(strings.Fields(args), io.Discard); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

func TestThePolicyHasTheRulesThatWereAskedForAndCompiles(t *testing.T) {
	for _, rules := range append([]int{policyRules}, byRules.sizes...) {
		n, files := 0, []*policy.File{}
		for i, text := range policyTexts("5432", rules) {
			f, err := policy.Parse(fmt.Sprint(i), []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			files, n = append(files, f), n+strings.Count(text, "effect: ")
		}
		if _, err := policy.Compile(1, files...); err != nil {
			t.Error(err)
		}
		if n != rules {
			t.Errorf("%d rules, want %d", n, rules)
		}
	}
}

func TestTheLargestStepIsFound(t *testing.T) {
	var rs Runs
	for i, cost := range []float64{10, 15, 14, 35} {
		rs = append(rs, Run{bySessions.measure(bySessions.sizes[i]), gate, 1, map[string]float64{"cpu_us": cost}, 0})
	}
	got, found := bySessions.largest(rs, gate, "cpu_us")
	if want := (step{64, 512, 2.5}); !found || got != want {
		t.Errorf("got %v, %v, want %v", got, found, want)
	}
	if r := rowsGrowthSessions(rs)[0]; r.Verdict != missed {
		t.Errorf("a step of 2.5 is %s", r.Verdict)
	}
	if r := rowsGrowthSessions(rs[:3])[0]; r.Verdict != notMeasured {
		t.Errorf("with a size missing it is %s", r.Verdict)
	}
}

func TestWhatRemainsIsOfTheStagesThatAreWanted(t *testing.T) {
	all, err := ParseOptions(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	one, err := ParseOptions([]string{"-only", "P5", "-rounds", "5", "-time", "3"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got := remaining(one, stages()); got != 20*time.Second {
		t.Errorf("one stage takes %v", got)
	}
	if got := remaining(all, stages()); got > 14*time.Minute || got < 10*time.Minute {
		t.Errorf("all of it takes %v", got)
	}
	if got := remaining(all, nil); got != 0 {
		t.Errorf("nothing takes %v", got)
	}
}

func TestAWordMayNameSeveralTargets(t *testing.T) {
	for only, want := range map[string][]string{
		"p1,P12": {"P1", "P12"}, "growth": {growthSessions, growthRules, growthRows}, "Growth-Rows": {growthRows},
	} {
		o, err := ParseOptions([]string{"-only", only}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, o.Only); diff != "" {
			t.Errorf("%s (-want +got):\n%s", only, diff)
		}
	}
}

func TestAPageKeepsWhatIsAroundTheFigures(t *testing.T) {
	const page = "head\n<!-- figures: begin -->\nold\n<!-- figures: end -->\n" +
		"<!-- figures, audit fsync, recording full: begin -->\n<!-- figures, audit fsync, recording full: end -->\ntail\n"
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Durability: "write", Recording: "statements"}, strings.Replace(page, "old", "new", 1)},
		{Options{Durability: "fsync", Recording: "full"}, strings.Replace(page, "full: begin -->\n", "full: begin -->\nnew\n", 1)},
	} {
		if got, err := c.o.between(page, "new\n"); err != nil || got != c.want {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := c.o.between("head\n", "new"); err == nil {
			t.Error("a page without a place for figures got some")
		}
	}
}

func TestAChartIsWellFormedAndHasABarForEachPath(t *testing.T) {
	c := chartsOf()[0]
	svg := c.draw(twoRounds())
	decoder := xml.NewDecoder(strings.NewReader(svg))
	bars := 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if bars != 3 { // one is the background
		t.Errorf("%d rectangles in\n%s", bars, svg)
	}
	if c.draw(nil) != "" {
		t.Error("a chart was drawn of nothing")
	}
}

// message is one of the server's.
func message(kind byte, body string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
}

func TestAResultIsCountedHoweverItIsCut(t *testing.T) {
	var stream []byte
	for range 1000 {
		stream = append(stream, message('D', strings.Repeat("x", 100))...)
	}
	stream = append(append(stream, message('C', "SELECT 1000\x00")...), message('Z', "I")...)
	for _, size := range []int{1, 3, 107, 4096, len(stream)} {
		agent, target := net.Pipe()
		go func() {
			_, _ = target.Read(make([]byte, 64))
			for rest := stream; len(rest) > 0; {
				n := min(size, len(rest))
				_, _ = target.Write(rest[:n])
				rest = rest[n:]
			}
		}()
		a, err := drain(agent, "select 1")
		if err != nil || a.Rows != 1000 || a.Bytes != len(stream) || a.Seen != 0 {
			t.Errorf("in pieces of %d: %+v, %v", size, a, err)
		}
		agent.Close()
		target.Close()
	}
}

func TestAnErrorInAResultIsAnError(t *testing.T) {
	agent, target := net.Pipe()
	defer agent.Close()
	go func() {
		defer target.Close()
		_, _ = target.Read(make([]byte, 64))
		_, _ = target.Write(bytes.Join([][]byte{message('E', "denied"), message('Z', "I")}, nil))
	}()
	if a, err := drain(agent, "select 1"); err == nil {
		t.Errorf("got %+v", a)
	}
}
