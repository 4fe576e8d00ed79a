package names

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/process"
)

var (
	start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ours  = process.ID{PID: 10, Start: 1}
	other = process.ID{PID: 11, Start: 1}
	host  = netip.MustParseAddr("192.0.2.1")
)

func answer(name string, ttl time.Duration, aliases ...string) Answer {
	return Answer{Name: name, Aliases: aliases, Addrs: []netip.Addr{host}, TTL: ttl}
}

func wantNames(t *testing.T, got []string, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("other names (-want +got):\n%s", d)
	}
}

func TestTheMostRecentNameComesFirstAndEachNameOnce(t *testing.T) {
	table := New(Limits{})
	table.Learn(ours, answer("a.example", time.Hour, "edge.example"), start)
	table.Learn(ours, answer("b.example", time.Hour, "edge.example"), start)
	wantNames(t, table.Of(ours, host, start), "b.example", "edge.example", "a.example")
	table.Learn(ours, answer("a.example", time.Hour), start)
	wantNames(t, table.Of(ours, host, start), "a.example", "b.example", "edge.example")
	if table.Len() != 3 {
		t.Errorf("Len is %d, want 3: an answer that comes again replaces the first", table.Len())
	}
}

func TestATreeKnowsOnlyWhatItWasTold(t *testing.T) {
	table := New(Limits{})
	table.Learn(ours, answer("a.example", time.Hour), start)
	wantNames(t, table.Of(other, host, start))
	wantNames(t, table.Of(ours, host.Next(), start))
	again := process.ID{PID: ours.PID, Start: ours.Start + 1}
	wantNames(t, table.Of(again, host, start))
}

func TestTTLIsClampedAndKeptForAMinuteMore(t *testing.T) {
	for ttl, life := range map[time.Duration]time.Duration{
		-time.Second:          90 * time.Second,
		0:                     90 * time.Second,
		10 * time.Minute:      11 * time.Minute,
		1000 * 24 * time.Hour: 24*time.Hour + time.Minute,
	} {
		table := New(Limits{})
		table.Learn(ours, answer("a.example", ttl), start)
		wantNames(t, table.Of(ours, host, start.Add(life-time.Nanosecond)), "a.example")
		wantNames(t, table.Of(ours, host, start.Add(life)))
	}
}

func TestAMappedAddressIsTheOneBehindIt(t *testing.T) {
	table := New(Limits{})
	mapped := netip.AddrFrom16(host.As16())
	table.Learn(ours, Answer{Name: "a.example", Addrs: []netip.Addr{mapped}}, start)
	wantNames(t, table.Of(ours, host, start), "a.example")
	wantNames(t, table.Of(ours, mapped, start), "a.example")
}

func TestForgetRemovesATreeAndNoOther(t *testing.T) {
	table := New(Limits{Total: 2})
	table.Learn(ours, answer("a.example", time.Hour), start)
	table.Learn(other, answer("b.example", time.Hour), start)
	table.Forget(ours)
	table.Forget(ours)
	wantNames(t, table.Of(ours, host, start))
	wantNames(t, table.Of(other, host, start), "b.example")
	table.Learn(other, answer("c.example", time.Hour), start)
	wantNames(t, table.Of(other, host, start), "c.example", "b.example")
}

func TestAFullTableLearnsNothingNewAndLosesNothing(t *testing.T) {
	for bound, limits := range map[string]Limits{
		"per tree": {PerTree: 2, Total: 100},
		"total":    {PerTree: 100, Total: 3},
	} {
		t.Run(bound, func(t *testing.T) {
			table := New(limits)
			table.Learn(other, answer("first.example", time.Hour), start)
			for i := range 10 {
				table.Learn(ours, answer(fmt.Sprintf("%d.example", i), time.Hour), start.Add(time.Duration(i)*time.Minute))
			}
			now := start.Add(10 * time.Minute)
			wantNames(t, table.Of(other, host, now), "first.example")
			wantNames(t, table.Of(ours, host, now), "1.example", "0.example")
			if table.Dropped() != 8 {
				t.Errorf("Dropped is %d, want 8", table.Dropped())
			}
		})
	}
}

func TestAFullTableStillRenewsWhatItKnows(t *testing.T) {
	table := New(Limits{PerTree: 1})
	table.Learn(ours, answer("a.example", time.Minute), start)
	table.Learn(ours, answer("a.example", time.Hour), start)
	wantNames(t, table.Of(ours, host, start.Add(30*time.Minute)), "a.example")
	if table.Dropped() != 0 {
		t.Errorf("Dropped is %d", table.Dropped())
	}
}

func TestWhatExpiredMakesRoom(t *testing.T) {
	table := New(Limits{Total: 2})
	table.Learn(ours, answer("old.example", time.Minute), start)
	table.Learn(other, answer("new.example", time.Hour), start)
	now := start.Add(10 * time.Minute)
	table.Learn(other, answer("newer.example", time.Hour), now)
	wantNames(t, table.Of(other, host, now), "newer.example", "new.example")
	if table.Len() != 2 {
		t.Errorf("Len is %d, want 2", table.Len())
	}
}

func TestAliasesCount(t *testing.T) {
	table := New(Limits{PerTree: 3})
	table.Learn(ours, answer("a.example", time.Hour, "b.example", "c.example", "d.example"), start)
	if table.Len() != 0 || table.Dropped() != 1 {
		t.Errorf("Len is %d and Dropped %d, want 0 and 1", table.Len(), table.Dropped())
	}
}

func TestWhatNobodyCanMeanIsNotLearned(t *testing.T) {
	long := strings.Repeat("a", 256)
	for what, learn := range map[string]func(*Table){
		"a tree that is nobody": func(tb *Table) { tb.Learn(process.ID{}, answer("a.example", 0), start) },
		"a name that is long":   func(tb *Table) { tb.Learn(ours, answer(long, 0), start) },
		"an alias that is long": func(tb *Table) { tb.Learn(ours, answer("a.example", 0, long), start) },
		"an address that is none": func(tb *Table) {
			tb.Learn(ours, Answer{Name: "a.example", Addrs: []netip.Addr{{}}}, start)
		},
	} {
		table := New(Limits{})
		learn(table)
		if table.Len() != 0 || table.Dropped() != 1 {
			t.Errorf("%s: Len is %d and Dropped %d, want 0 and 1", what, table.Len(), table.Dropped())
		}
	}
}

func TestZeroAndNilTablesKnowNothing(t *testing.T) {
	for _, table := range []*Table{nil, {}} {
		table.Learn(ours, answer("a.example", time.Hour), start)
		table.Forget(ours)
		wantNames(t, table.Of(ours, host, start))
	}
}

func TestManyMayUseATable(t *testing.T) {
	table := New(Limits{PerTree: 8, Total: 32})
	var all sync.WaitGroup
	for i := range uint32(16) {
		all.Go(func() {
			root := process.ID{PID: i % 6, Start: 1}
			for n := range 200 {
				table.Learn(root, answer(fmt.Sprintf("%d.example", n%20), 0), start.Add(time.Duration(n)*time.Second))
				table.Of(root, host, start)
				if n%50 == 0 {
					table.Forget(root)
				}
			}
		})
	}
	all.Wait()
	for i := range uint32(6) {
		table.Forget(process.ID{PID: i, Start: 1})
	}
	if table.Len() != 0 {
		t.Errorf("Len is %d after all was forgotten", table.Len())
	}
}
