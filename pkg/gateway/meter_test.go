package gateway

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
)

// clock is a time that a test moves.
type clock struct{ at time.Time }

func newClock() *clock { return &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time       { return c.at }
func (c *clock) move(d time.Duration) { c.at = c.at.Add(d) }

func treeOf(n int) process.ID { return process.ID{PID: uint32(n), Start: 1} }

// No minute, wherever it begins, has more than a limit says, and what was refused
// is allowed after the time that was given.
func TestNoMinuteHasMoreThanTheLimit(t *testing.T) {
	c := newClock()
	m := newMeters(c.now)
	tree := m.acquire(treeOf(1))
	limits := []policy.Limit{{Rule: "r", PerMinute: policy.Rate{Rows: 100}}}
	type charge struct {
		at   time.Time
		rows uint64
	}
	var charged []charge
	dice := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for range 20_000 {
		c.move(time.Duration(dice.IntN(4000)) * time.Millisecond)
		want := policy.Rate{Rows: uint64(dice.IntN(30))}
		over := m.spend(tree, limits, want, want)
		if over == nil {
			charged = append(charged, charge{c.at, want.Rows})
			sum := uint64(0)
			for i := len(charged) - 1; i >= 0 && c.at.Sub(charged[i].at) < time.Minute; i-- {
				sum += charged[i].rows
			}
			if sum > 100 {
				t.Fatalf("%d rows in a minute", sum)
			}
			continue
		}
		refused++
		if over.retry <= 0 || over.retry > time.Minute+slotLength {
			t.Fatalf("retry after %v", over.retry)
		}
		c.move(over.retry - 1)
		if m.spend(tree, limits, want, policy.Rate{}) == nil {
			t.Fatalf("there is room before the %v that were given", over.retry)
		}
		c.move(1)
		if m.spend(tree, limits, want, policy.Rate{}) != nil {
			t.Fatalf("no room after the %v that were given", over.retry)
		}
	}
	if refused < 100 || len(charged) < 100 {
		t.Errorf("%d refused, %d charged: the test proves little", refused, len(charged))
	}
}

func TestWhatOneLimitRefusesIsChargedToNone(t *testing.T) {
	c := newClock()
	m := newMeters(c.now)
	tree := m.acquire(treeOf(1))
	wide := policy.Limit{Rule: "a", PerMinute: policy.Rate{Operations: 3}}
	tight := policy.Limit{Rule: "b", PerMinute: policy.Rate{Operations: 1}}
	one := policy.Rate{Operations: 1}
	for i, want := range []string{"", "b", "b", "b"} {
		over := m.spend(tree, []policy.Limit{wide, tight}, one, one)
		if got := ruleOf(over); got != want {
			t.Errorf("operation %d: refused by %q, want %q", i, got, want)
		}
	}
	for i, want := range []string{"", "", "a"} {
		if got := ruleOf(m.spend(tree, []policy.Limit{wide}, one, one)); got != want {
			t.Errorf("operation %d of the wide rule alone: refused by %q, want %q", i, got, want)
		}
	}
}

func ruleOf(over *excess) string {
	if over == nil {
		return ""
	}
	return over.limit.Rule
}

func TestMoreThanALimitAtOnceIsNeverAllowed(t *testing.T) {
	c := newClock()
	m := newMeters(c.now)
	limits := []policy.Limit{{Rule: "r", PerMinute: policy.Rate{Bytes: 10}}}
	over := m.spend(m.acquire(treeOf(1)), limits, policy.Rate{Bytes: 11}, policy.Rate{Bytes: 11})
	if over == nil || over.retry != 0 {
		t.Errorf("11 of 10 bytes: %+v, want a refusal without a time", over)
	}
}

func TestTreesHaveAccountsOfTheirOwn(t *testing.T) {
	c := newClock()
	m := newMeters(c.now)
	limits := []policy.Limit{{Rule: "r", PerMinute: policy.Rate{Operations: 1}}}
	one := policy.Rate{Operations: 1}
	for n := range 3 {
		if over := m.spend(m.acquire(treeOf(n)), limits, one, one); over != nil {
			t.Errorf("tree %d: %+v", n, over)
		}
	}
	if m.spend(m.acquire(treeOf(0)), limits, one, one) == nil {
		t.Error("another session of a tree has an account of its own")
	}
}

// A full table refuses those that are not in it, and forgets nobody who could
// begin anew; those of whom nothing is in the last minute make room.
func TestAFullTableForgetsOnlyWhatSaysNothing(t *testing.T) {
	c := newClock()
	m := newMeters(c.now)
	m.max = 3
	limits := []policy.Limit{{Rule: "r", PerMinute: policy.Rate{Operations: 1}}}
	one := policy.Rate{Operations: 1}
	for n := range 3 {
		tree := m.acquire(treeOf(n))
		if over := m.spend(tree, limits, one, one); over != nil {
			t.Fatal(over)
		}
		if n > 0 {
			m.release(tree) // tree 0 has a session all the time
		}
	}
	for range 11 {
		c.move(slotLength)
		if m.acquire(treeOf(9)) != nil {
			t.Fatal("a tree took the place of one that has charged something")
		}
		again := m.acquire(treeOf(1))
		if m.spend(again, limits, one, one) == nil {
			t.Fatal("a tree could begin anew")
		}
		m.release(again)
	}
	c.move(2 * slotLength)
	if m.acquire(treeOf(9)) == nil || m.acquire(treeOf(10)) == nil {
		t.Error("there is no room after a minute")
	}
	if m.acquire(treeOf(11)) != nil {
		t.Error("the account of a tree with a session was dropped")
	}
}

func TestRulesThatAreNoMoreCostNothing(t *testing.T) {
	c := newClock()
	m := newMeters(c.now)
	tree := m.acquire(treeOf(1))
	one := policy.Rate{Operations: 1}
	for i := range 1000 {
		limits := []policy.Limit{{Rule: string(rune('a' + i)), PerMinute: policy.Rate{Operations: 1}}}
		if over := m.spend(tree, limits, one, one); over != nil {
			t.Fatal(over)
		}
		c.move(slotLength)
	}
	if n := len(tree.rules); int64(n) > windowSlots {
		t.Errorf("%d rules are accounted for, of which each was used once", n)
	}
}

func BenchmarkSpend(b *testing.B) {
	m := newMeters(time.Now)
	tree := m.acquire(treeOf(1))
	limits := []policy.Limit{{Rule: "some-rule", Rows: 1 << 40, PerMinute: policy.Rate{Rows: 1 << 40, Bytes: 1 << 50}}}
	row := policy.Rate{Rows: 1, Bytes: 100}
	for b.Loop() {
		if m.spend(tree, limits, row, row) != nil {
			b.Fatal("refused")
		}
	}
}
