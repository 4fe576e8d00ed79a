package gateway

import (
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
)

// A minute is counted in slots. What happened counts for the slot that it
// happened in and the minuteSlots after that: for a minute, and at most one slot
// longer.
const (
	slotLength  = 5 * time.Second
	minuteSlots = int64(time.Minute / slotLength)
	windowSlots = minuteSlots + 1
)

// maxTrees bounds the trees of which account is kept. What one costs is bounded
// by the rules with limits that there are.
const maxTrees = 16_384

// meters count what trees have by rules with limits per minute. A tree's account
// is dropped when it says nothing any more, because nothing of it is in the last
// minute, and never before: whoever finds no room is denied.
type meters struct {
	now   func() time.Time
	start time.Time
	max   int

	mu    sync.Mutex
	trees map[process.ID]*treeMeter
	swept int64 // the slot in which trees was last looked through
}

func newMeters(now func() time.Time) *meters {
	return &meters{now: now, start: now(), max: maxTrees, trees: map[process.ID]*treeMeter{}}
}

// treeMeter is the account of one tree.
type treeMeter struct {
	users int // sessions that hold it; guarded by meters.mu

	mu    sync.Mutex
	rules map[string]*window
}

// slot returns the number of the present slot, and when it began.
func (m *meters) slot() (number int64, age time.Duration) {
	d := m.now().Sub(m.start)
	return int64(d / slotLength), d % slotLength
}

// acquire returns the account of a tree, for a session to hold until release. It
// returns nil if there is no room.
func (m *meters) acquire(root process.ID) *treeMeter {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.trees[root]
	if t == nil {
		slot, _ := m.slot()
		if slot-m.swept >= minuteSlots || len(m.trees) >= m.max && slot > m.swept {
			m.sweep(slot)
		}
		if len(m.trees) >= m.max {
			return nil
		}
		t = &treeMeter{rules: map[string]*window{}}
		m.trees[root] = t
	}
	t.users++
	return t
}

// release ends what acquire began. A nil t is nothing.
func (m *meters) release(t *treeMeter) {
	if t == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t.users--
}

// sweep drops the accounts that nobody holds and that say nothing. m.mu is held.
func (m *meters) sweep(slot int64) {
	m.swept = slot
	for root, t := range m.trees {
		if t.users == 0 && t.forget(slot) {
			delete(m.trees, root)
		}
	}
}

// forget drops what is over a minute old, and reports whether nothing is left.
func (t *treeMeter) forget(slot int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire(slot)
	return len(t.rules) == 0
}

// expire drops the windows of rules in which nothing is. t.mu is held.
func (t *treeMeter) expire(slot int64) {
	for rule, w := range t.rules {
		if w.advance(slot); w.total == (policy.Rate{}) {
			delete(t.rules, rule)
		}
	}
}

// excess says which limit does not allow what was asked for.
type excess struct {
	limit *policy.Limit
	what  string
	bound uint64
	// minute tells that it is one per minute, and retry after how long there would
	// be room; 0 for never.
	minute bool
	retry  time.Duration
}

// spend charges the account for what is within the limits per minute. It needs
// room for need, which is no less than charge, and then charges charge to all of
// limits, or nothing to any of them.
func (m *meters) spend(t *treeMeter, limits []policy.Limit, need, charge policy.Rate) *excess {
	slot, age := m.slot()
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range limits {
		l := &limits[i]
		w := t.rules[l.Rule]
		if w == nil {
			w = &window{} // nothing has been charged yet
		}
		w.advance(slot)
		if over := w.over(l, need, age); over != nil {
			return over
		}
	}
	for i := range limits {
		l := &limits[i]
		if l.PerMinute == (policy.Rate{}) {
			continue
		}
		w := t.rules[l.Rule]
		if w == nil {
			t.expire(slot) // those of rules that are no more
			w = &window{}
			w.advance(slot)
			t.rules[l.Rule] = w
		}
		w.add(charge)
	}
	return nil
}

// window is what was charged to one rule, by slots; newest is the present one.
type window struct {
	slots  [windowSlots]policy.Rate
	total  policy.Rate
	newest int64
}

// advance forgets what is too old. A clock never goes back here.
func (w *window) advance(slot int64) {
	if slot-w.newest >= windowSlots {
		*w = window{newest: slot}
		return
	}
	for w.newest < slot {
		w.newest++
		old := &w.slots[w.newest%windowSlots]
		w.total = minus(w.total, *old)
		*old = policy.Rate{}
	}
}

func (w *window) add(r policy.Rate) {
	w.total = plus(w.total, r)
	now := &w.slots[w.newest%windowSlots]
	*now = plus(*now, r)
}

// quantities are what a rate bounds.
var quantities = []struct {
	name string
	of   func(policy.Rate) uint64
}{
	{"operations", func(r policy.Rate) uint64 { return r.Operations }},
	{"rows", func(r policy.Rate) uint64 { return r.Rows }},
	{"bytes", func(r policy.Rate) uint64 { return r.Bytes }},
}

// over returns which of a rule's limits has no room for need, if one has not.
// age is for how long the newest slot has been the present one.
func (w *window) over(l *policy.Limit, need policy.Rate, age time.Duration) *excess {
	for _, q := range quantities {
		bound := q.of(l.PerMinute)
		if bound == 0 || fits(q.of(w.total), q.of(need), bound) {
			continue
		}
		over := &excess{limit: l, what: q.name, bound: bound, minute: true}
		left := q.of(w.total)
		for i := int64(1); i <= windowSlots && q.of(need) <= bound; i++ {
			left -= q.of(w.slots[(w.newest+i)%windowSlots])
			if fits(left, q.of(need), bound) {
				over.retry = time.Duration(i)*slotLength - age
				break
			}
		}
		return over
	}
	return nil
}

// fits reports whether used and more together are within bound.
func fits(used, more, bound uint64) bool { return used <= bound && more <= bound-used }

func plus(a, b policy.Rate) policy.Rate {
	return policy.Rate{Operations: a.Operations + b.Operations, Rows: a.Rows + b.Rows, Bytes: a.Bytes + b.Bytes}
}

func minus(a, b policy.Rate) policy.Rate {
	return policy.Rate{Operations: a.Operations - b.Operations, Rows: a.Rows - b.Rows, Bytes: a.Bytes - b.Bytes}
}
