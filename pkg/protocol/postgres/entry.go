package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
)

// How old a catalog may be. What mediated sessions define is known at once; these
// are for definitions that nobody here sees.
const (
	// softAge is when it is loaded again in the background, once it is asked for.
	softAge = 30 * time.Second
	// hardAge is when it does not count any more.
	hardAge = 2 * time.Minute
)

// How often a catalog may be loaded: so many times at once, and then once in each
// interval. After a failure the next one has to wait longer, and one that takes
// long has to be followed by a break of so many times its length.
const (
	loadInterval = time.Second
	burst        = 5
	maxBackoff   = 5 * time.Second
	loadBreak    = 4
)

// aloneBurst is the burst of a session that loads on its own connection, and so
// takes its own time.
const aloneBurst = 64

// loadTimeout bounds one load.
const loadTimeout = 15 * time.Second

// maxShields bounds the mask sets whose meaning in a database is kept.
const maxShields = 16

// entry is what is known of a database, with one account. All of it is guarded by
// the database's lock. Safe for concurrent use.
type entry struct {
	database *database
	burst    int

	catalog *catalog.Catalog // nil until it was loaded, and when it was dropped
	changes uint64           // those that it is sure to show
	adds    uint64           // and those that only added
	begun   time.Time        // when its load began
	used    time.Time
	// wanted: something was asked for that the catalog does not have.
	wanted  bool
	shields map[*mask.Set]*shields
	made    uint64  // how many of them there were
	flight  *flight // the load that runs
	// next is when a load may begin at the latest; see permitted.
	next     time.Time
	failures int
	err      error // of the last load
}

// shields makes one [catalog.Shield] for all who ask.
type shields struct {
	number uint64 // no other one of the entry has it
	once   sync.Once
	one    *catalog.Shield
}

// flight is one load for all who wait for it. err is there once done is closed.
type flight struct {
	done    chan struct{}
	err     error
	changes uint64
	adds    uint64
	begun   time.Time
}

// loader loads a catalog.
type loader func(ctx context.Context) (*catalog.Catalog, error)

func newEntry(db *database, burst int) *entry {
	return &entry{database: db, burst: burst, shields: make(map[*mask.Set]*shields)}
}

// weight returns the size of the catalog, or -1 if there is none.
func (e *entry) weight() (attributes int, used time.Time, loading bool) {
	e.database.mu.Lock()
	defer e.database.mu.Unlock()
	if e.catalog == nil {
		return -1, e.used, e.flight != nil
	}
	return e.catalog.Attributes(), e.used, e.flight != nil
}

func (e *entry) lastUse() time.Time {
	e.database.mu.Lock()
	defer e.database.mu.Unlock()
	return e.used
}

// drop forgets the catalog.
func (e *entry) drop() {
	e.database.mu.Lock()
	defer e.database.mu.Unlock()
	e.catalog = nil
	clear(e.shields)
}

// view is what is known at one moment.
type view struct {
	catalog *catalog.Catalog // nil if nothing is
	// doubt: a view may show something else than the catalog says, and a name may
	// be that of something else.
	doubt bool
	// changes are those up to now.
	changes uint64
	// behind: something was added since the catalog was read.
	behind  bool
	shields *shields
}

// look returns what is known now, and the place for what the set means in it.
func (e *entry) look(set *mask.Set) view {
	db := e.database
	now := db.of.now()
	db.mu.Lock()
	defer db.mu.Unlock()
	e.used = now
	s := e.shields[set]
	if s == nil {
		if len(e.shields) >= maxShields {
			clear(e.shields) // costs computing them again
		}
		e.made++
		s = &shields{number: e.made}
		e.shields[set] = s
	}
	return view{catalog: e.catalog, doubt: db.open > 0 || db.intents > 0 || e.outdated(now), changes: db.changes.Load(), behind: e.adds != db.adds, shields: s}
}

// outdated reports whether the catalog does not count. The lock is held.
func (e *entry) outdated(now time.Time) bool {
	return e.catalog == nil || e.changes != e.database.changes.Load() || e.begun.Before(e.database.unsettled) || now.Sub(e.begun) > hardAge
}

// shield returns what the set means in what is known.
func (v *view) shield(set *mask.Set) *catalog.Shield {
	v.shields.once.Do(func() { v.shields.one = catalog.NewShield(set, v.catalog) })
	return v.shields.one
}

// want notes that the catalog lacks something, so that it is loaded again.
func (e *entry) want() {
	e.database.mu.Lock()
	defer e.database.mu.Unlock()
	e.wanted = true
}

// missing reports whether there is a reason to load the catalog and to wait for
// it. While a session may commit something at any moment no load would count.
// The lock is held.
func (e *entry) missing(now time.Time) bool {
	return e.catalog == nil || e.database.open == 0 && (e.wanted || e.outdated(now))
}

// permitted reports whether a load may begin: next runs ahead of the clock by an
// interval for each, and by no more than the burst. The lock is held.
func (e *entry) permitted(now time.Time) bool {
	return !now.Before(e.next.Add(-time.Duration(e.burst-1) * loadInterval))
}

// begin notes that a load begins. The lock is held.
func (e *entry) begin(now time.Time) *flight {
	if e.next.Before(now) {
		e.next = now
	}
	e.next = e.next.Add(loadInterval)
	e.wanted = false
	return &flight{done: make(chan struct{}), changes: e.database.changes.Load(), adds: e.database.adds, begun: now}
}

// end takes what a load brought. The lock is held.
func (e *entry) end(f *flight, c *catalog.Catalog, err error, now time.Time) {
	e.err = err
	if err != nil {
		e.failures++
		e.wanted = true
		e.rest(now, min(loadInterval<<min(e.failures, 8), maxBackoff))
		return
	}
	e.failures = 0
	e.catalog, e.changes, e.adds, e.begun = c, f.changes, f.adds, f.begun
	clear(e.shields)
}

// rest permits no load for a while. The lock is held.
func (e *entry) rest(now time.Time, pause time.Duration) {
	if next := now.Add(pause + time.Duration(e.burst-1)*loadInterval); next.After(e.next) {
		e.next = next
	}
}

// fetch returns a load that is worth waiting for, which it starts if that is
// permitted; nil if there is none.
func (e *entry) fetch(ctx context.Context, load loader) *flight {
	db := e.database
	now := db.of.now()
	db.mu.Lock()
	defer db.mu.Unlock()
	missing := e.missing(now)
	if e.flight == nil && (missing || db.open == 0 && now.Sub(e.begun) > softAge) && e.permitted(now) {
		f := e.begin(now)
		e.flight = f
		alone := context.WithoutCancel(ctx) // whoever still waits for it
		go func() {
			var c *catalog.Catalog
			err := protocol.Guard(func() (err error) {
				ctx, cancel := context.WithTimeout(alone, loadTimeout)
				defer cancel()
				c, err = load(ctx)
				return err
			})
			e.land(f, c, err)
		}()
	}
	if !missing {
		return nil
	}
	return e.flight
}

// land is the end of a load for all who wait.
func (e *entry) land(f *flight, c *catalog.Catalog, err error) {
	if err != nil {
		f.err = fmt.Errorf("load catalog: %w: %w", catalog.ErrCatalog, err)
	}
	db := e.database
	now := db.of.now()
	db.mu.Lock()
	e.end(f, c, f.err, now)
	if took := now.Sub(f.begun); loadBreak*took > loadInterval {
		e.rest(now, loadBreak*took)
	}
	e.used = now
	e.flight = nil
	db.mu.Unlock()
	db.of.mu.Lock()
	db.of.trim()
	db.of.mu.Unlock()
	close(f.done)
}

// await waits until something is known, for a session that starts. Where a load is
// not permitted because there were too many the session starts without, and has
// everything protected.
func (e *entry) await(ctx context.Context, load loader) error {
	for range maxLoads {
		if e.usable() {
			return nil
		}
		f := e.fetch(ctx, load)
		if f == nil {
			return e.failure()
		}
		if err := f.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// wait returns how the load ended.
func (f *flight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// usable reports whether there is a catalog that is not too old, be it in doubt.
func (e *entry) usable() bool {
	now := e.database.of.now()
	e.database.mu.Lock()
	defer e.database.mu.Unlock()
	return e.catalog != nil && now.Sub(e.begun) <= hardAge
}

// failure returns how the last load failed, nil if it did not.
func (e *entry) failure() error {
	e.database.mu.Lock()
	defer e.database.mu.Unlock()
	return e.err
}

// fetchAlone is fetch for a session that loads by itself: nil if there is no
// reason.
func (e *entry) fetchAlone() *flight {
	now := e.database.of.now()
	e.database.mu.Lock()
	defer e.database.mu.Unlock()
	outdated := e.catalog == nil || e.wanted || e.changes != e.database.changes.Load() || e.begun.Before(e.database.unsettled)
	if !outdated || e.failures == 0 && !e.permitted(now) {
		return nil
	}
	return e.begin(now)
}

// endAlone is the end of such a load.
func (e *entry) endAlone(f *flight, c *catalog.Catalog, err error) {
	now := e.database.of.now()
	e.database.mu.Lock()
	defer e.database.mu.Unlock()
	e.end(f, c, err, now)
}
