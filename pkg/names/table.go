package names

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/pkg/process"
)

const (
	// minTTL and maxTTL bound what a server says of an answer's life: an agent
	// may connect a moment after a TTL of zero, and nothing is believed for ever.
	minTTL = 30 * time.Second
	maxTTL = 24 * time.Hour
	// grace is how much longer an answer is kept: libraries hold on to addresses.
	grace = time.Minute
	// maxName bounds a name, in bytes. Host names have at most 253; longer ones
	// are spelt with escapes.
	maxName = 255
	// sweepInterval bounds how often a full table is searched for what expired.
	sweepInterval = time.Second
)

// Limits bounds a [Table]. A zero field is the default.
type Limits struct {
	// PerTree bounds what is remembered for one tree, in names: each name of an
	// answer, alias or not, counts once for each of its addresses. 4096 by default.
	PerTree int
	// Total bounds the sum over all trees; 65536 by default.
	Total int
}

// Table remembers which names led to which addresses, for each tree apart. It is
// safe for concurrent use. The zero Table remembers nothing, and so does nil.
type Table struct {
	limits  Limits
	dropped atomic.Uint64

	mu    sync.Mutex
	trees map[process.ID]*tree
	total int
	swept time.Time
}

// tree is what one tree was told.
type tree struct {
	// told holds the answers for each address, the most recent first.
	told map[netip.Addr][]told
	size int
}

type told struct {
	name    string
	aliases []string
	expires time.Time
}

func (t told) size() int { return 1 + len(t.aliases) }

// New returns an empty table.
func New(limits Limits) *Table {
	if limits.PerTree <= 0 {
		limits.PerTree = 4096
	}
	if limits.Total <= 0 {
		limits.Total = 65536
	}
	return &Table{limits: limits, trees: make(map[process.ID]*tree)}
}

// Learn remembers an answer for the tree with that root. Its TTL is taken as at
// least 30 seconds and at most 24 hours, and a minute more. What finds no room
// is not remembered, and counted: nothing that still counts makes room for it,
// of this tree or of another. It keeps a, which must not change any more.
func (t *Table) Learn(root process.ID, a Answer, now time.Time) {
	if t == nil || a.Name == "" || len(a.Addrs) == 0 {
		return
	}
	entry := told{a.Name, a.Aliases, now.Add(min(max(a.TTL, minTTL), maxTTL) + grace)}
	if root.IsZero() || tooLong(entry) {
		t.dropped.Add(uint64(len(a.Addrs)))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, addr := range a.Addrs {
		if !t.learn(root, plain(addr), entry, now) {
			t.dropped.Add(1)
		}
	}
}

func tooLong(e told) bool {
	return len(e.name) > maxName || slices.ContainsFunc(e.aliases, func(a string) bool { return len(a) > maxName })
}

// plain returns the address as a connection's origin has it.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

func (t *Table) learn(root process.ID, addr netip.Addr, entry told, now time.Time) bool {
	if !addr.IsValid() || t.trees == nil {
		return false
	}
	tr := t.trees[root]
	before := 0
	if tr != nil {
		if i := tr.find(addr, entry.name); i >= 0 {
			before = tr.told[addr][i].size()
		}
	}
	if !t.makeRoom(tr, entry.size()-before, now) {
		return false
	}
	// Making room may have removed what was found, or the tree with it.
	if tr = t.trees[root]; tr == nil {
		tr = &tree{told: make(map[netip.Addr][]told)}
		t.trees[root] = tr
	}
	if i := tr.find(addr, entry.name); i >= 0 {
		t.grow(tr, -tr.told[addr][i].size())
		tr.told[addr] = slices.Delete(tr.told[addr], i, i+1)
	}
	tr.told[addr] = slices.Insert(tr.told[addr], 0, entry)
	t.grow(tr, entry.size())
	return true
}

func (t *Table) grow(tr *tree, n int) {
	tr.size += n
	t.total += n
}

// find returns the index of an address's answer for a name, or -1.
func (tr *tree) find(addr netip.Addr, name string) int {
	return slices.IndexFunc(tr.told[addr], func(e told) bool { return e.name == name })
}

// makeRoom reports whether n more names fit, after what has expired was removed
// where they otherwise don't.
func (t *Table) makeRoom(tr *tree, n int, now time.Time) bool {
	fits := func() bool {
		return t.total+n <= t.limits.Total && (tr == nil && n <= t.limits.PerTree || tr != nil && tr.size+n <= t.limits.PerTree)
	}
	if fits() {
		return true
	}
	if now.Sub(t.swept) < sweepInterval && !now.Before(t.swept) {
		return false
	}
	t.swept = now
	for root, each := range t.trees {
		t.expire(each, now)
		if each.size == 0 {
			delete(t.trees, root)
		}
	}
	return fits()
}

func (t *Table) expire(tr *tree, now time.Time) {
	for addr, entries := range tr.told {
		kept := slices.DeleteFunc(entries, func(e told) bool {
			if e.expires.After(now) {
				return false
			}
			t.grow(tr, -e.size())
			return true
		})
		if len(kept) == 0 {
			delete(tr.told, addr)
			continue
		}
		tr.told[addr] = kept
	}
}

// Of returns the names that led the tree to addr and have not expired, each
// once: those of the most recent answer first, what was asked for before its
// aliases. It returns nil where there are none. The caller owns the slice.
func (t *Table) Of(root process.ID, addr netip.Addr, now time.Time) []string {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	tr := t.trees[root]
	if tr == nil {
		return nil
	}
	var names []string
	seen := make(map[string]bool)
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for _, e := range tr.told[plain(addr)] {
		if !e.expires.After(now) {
			continue
		}
		add(e.name)
		for _, alias := range e.aliases {
			add(alias)
		}
	}
	return names
}

// Forget removes all that was remembered for a tree.
func (t *Table) Forget(root process.ID) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if tr := t.trees[root]; tr != nil {
		t.total -= tr.size
		delete(t.trees, root)
	}
}

// Len returns how many names are remembered, in the measure of [Limits].
func (t *Table) Len() int {
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total
}

// Dropped returns how many addresses were not remembered for want of room, or
// because nobody could have meant their name. It only grows.
func (t *Table) Dropped() uint64 {
	if t == nil {
		return 0
	}
	return t.dropped.Load()
}
