package postgres

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// The bounds of what is kept when nobody uses it. Dropping a catalog costs its
// next reader a load, and nothing else.
const (
	maxCatalogs       = 64
	maxKeptAttributes = 1_000_000
)

// place names a database as far as sessions that use the same one can be told.
// One that is reached by two addresses has two places.
type place struct {
	target netip.AddrPort
	netns  uint64
	name   string
}

// maxIdentifier is how much of a name a server looks at (NAMEDATALEN - 1).
const maxIdentifier = 63

// newPlace cuts the name as a server would, so that no spelling of it hides what
// is done there.
func newPlace(target netip.AddrPort, netns uint64, name string) place {
	return place{target, netns, name[:min(len(name), maxIdentifier)]}
}

// databases holds what sessions share: one [database] for each place that a
// session uses or of which a catalog is kept. Safe for concurrent use. Its lock is
// taken before that of a database, never after.
type databases struct {
	now func() time.Time

	mu  sync.Mutex
	all map[place]*database
}

func newDatabases() *databases {
	return &databases{now: time.Now, all: make(map[place]*database)}
}

// database is what all sessions of a place know together: when what its relations
// are made of may have changed. Whether a catalog counts depends on nothing else,
// so a database stays as long as a session uses it.
type database struct {
	of    *databases
	place place
	users int                // guarded by of.mu
	kept  map[account]*entry // guarded by of.mu

	mu sync.Mutex
	// changes counts the definitions that may have been committed. A catalog
	// counts if no change came since before its load began. It is written with mu
	// held.
	changes atomic.Uint64
	// adds counts those that only added something that leads from one relation to
	// another: a child, a partition, a foreign key. They put no mask in doubt.
	adds uint64
	// storers counts the sessions that are about to store what they read, and
	// intents those that are about to define something.
	storers, intents int
	// open counts the sessions that may commit a definition at any moment.
	open int
	// unsettled is until when somebody may who is not seen any more. A catalog
	// whose load began before that does not count.
	unsettled time.Time
}

// account is how we log in to load a catalog. What a catalog shows does not
// depend on it, but whether there is one does.
type account struct{ resource, credential, database string }

// enter returns the database of a place. The caller leaves it.
func (d *databases) enter(p place) *database {
	d.mu.Lock()
	defer d.mu.Unlock()
	db := d.all[p]
	if db == nil {
		db = &database{of: d, place: p, kept: make(map[account]*entry)}
		d.all[p] = db
	}
	db.users++
	return db
}

// enterAgain counts one more user of a database that has one.
func (db *database) enterAgain() {
	db.of.mu.Lock()
	defer db.of.mu.Unlock()
	db.users++
}

// leave is the end of a session that entered.
func (db *database) leave() {
	db.of.mu.Lock()
	defer db.of.mu.Unlock()
	db.users--
	db.of.trim()
}

// entry returns what is known with an account, for all sessions.
func (db *database) entry(a account) *entry {
	db.of.mu.Lock()
	defer db.of.mu.Unlock()
	e := db.kept[a]
	if e == nil {
		e = newEntry(db, burst)
		db.kept[a] = e
	}
	return e
}

// trim drops the catalogs that are too many, and the databases that nobody uses
// and nothing is known of. mu is held.
func (d *databases) trim() {
	for {
		oldest, catalogs, attributes := (*entry)(nil), 0, 0
		for p, db := range d.all {
			busy := db.users > 0
			for _, e := range db.kept {
				n, used, loading := e.weight()
				busy = busy || n >= 0 || loading
				if n < 0 {
					continue
				}
				catalogs, attributes = catalogs+1, attributes+n
				if oldest == nil || used.Before(oldest.lastUse()) {
					oldest = e
				}
			}
			if !busy {
				delete(d.all, p)
			}
		}
		if oldest == nil || catalogs <= maxCatalogs && (attributes <= maxKeptAttributes || catalogs == 1) {
			return
		}
		oldest.drop()
	}
}

// opened notes that a session may commit a definition from now on.
func (db *database) opened() {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.open++
}

// closed notes that a session for which opened was called has done that, or never
// will. What was loaded before does not count.
func (db *database) closed() {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.open--
	db.changes.Add(1)
}

// lost is closed for a session of which nobody can see any more what it does. It
// may still do it until the time that is given.
func (db *database) lost(until time.Time) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.open--
	db.changes.Add(1)
	if until.After(db.unsettled) {
		db.unsettled = until
	}
}

// seen returns the number of changes up to now.
func (db *database) seen() uint64 { return db.changes.Load() }

// added notes that something of the kind may have been added.
func (db *database) added() {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.adds++
}
