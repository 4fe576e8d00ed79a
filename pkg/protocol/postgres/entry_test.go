package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
)

// clock is what the tests let pass.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// shelf is a database with one entry, and a loader that counts.
type shelf struct {
	*clock
	all   *databases
	db    *database
	entry *entry
	loads atomic.Int64
	err   error // of the loads
	// during runs inside a load.
	during func()
}

func newShelf(tb testing.TB) *shelf {
	tb.Helper()
	s := &shelf{clock: &clock{now: time.Unix(1_000_000, 0)}, all: newDatabases()}
	s.all.now = s.Now
	s.db = s.all.enter(place{name: "shop"})
	s.entry = s.db.entry(account{database: "shop"})
	return s
}

func (s *shelf) load(context.Context) (*catalog.Catalog, error) {
	s.loads.Add(1)
	if s.during != nil {
		s.during()
	}
	return catalog.New(), s.err
}

// ask does what a message of a session does, and waits.
func (s *shelf) ask(tb testing.TB) error {
	tb.Helper()
	f := s.entry.fetch(tb.Context(), s.load)
	if f == nil {
		return nil
	}
	return f.wait(tb.Context())
}

func (s *shelf) doubt() bool { return s.entry.look(nil).doubt }

func TestACatalogIsLoadedOnceForAllWhoAsk(t *testing.T) {
	s := newShelf(t)
	begun, end := make(chan struct{}), make(chan struct{})
	s.during = func() { close(begun); <-end }
	starter, gone := context.WithCancel(t.Context())
	errs := make(chan error, 11)
	go func() { errs <- s.entry.await(starter, s.load) }()
	<-begun
	var waiting sync.WaitGroup
	for range 10 {
		waiting.Go(func() { errs <- s.entry.await(t.Context(), s.load) })
	}
	gone() // who started the load leaves
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("the session that left got %v", err)
	}
	close(end)
	waiting.Wait()
	for range 10 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := s.loads.Load(); n != 1 {
		t.Errorf("%d loads, want 1", n)
	}
	if s.doubt() {
		t.Error("what was loaded is in doubt")
	}
}

func TestACatalogCountsOnlyIfItsLoadBeganBehindTheLastChange(t *testing.T) {
	s := newShelf(t)
	if err := s.ask(t); err != nil || s.doubt() {
		t.Fatalf("after a load: %v, doubt %v", err, s.doubt())
	}
	s.db.opened()
	if !s.doubt() {
		t.Error("no doubt while a definition may be committed")
	}
	if err := s.ask(t); err != nil || s.loads.Load() != 1 {
		t.Errorf("%d loads while none would count", s.loads.Load())
	}
	s.db.closed()
	s.during = func() { s.db.opened(); s.db.closed() } // another change, while it loads
	if err := s.ask(t); err != nil || s.loads.Load() != 2 {
		t.Fatalf("%d loads, %v", s.loads.Load(), err)
	}
	if !s.doubt() {
		t.Error("a load that began in front of a change counts")
	}
	s.during = nil
	if err := s.ask(t); err != nil || s.doubt() {
		t.Errorf("after a load behind all changes: %v, doubt %v", err, s.doubt())
	}
}

func TestDefinitionsInALoopDoNotMakeAStormOfLoads(t *testing.T) {
	s := newShelf(t)
	const seconds, each = 20, 50
	strict := 0
	for range seconds * each {
		s.db.opened()
		s.db.closed()
		s.entry.want()
		if err := s.ask(t); err != nil {
			t.Fatal(err)
		}
		if s.doubt() {
			strict++
		}
		s.pass(time.Second / each)
	}
	if n := s.loads.Load(); n > burst+seconds || n < seconds {
		t.Errorf("%d loads in %d seconds, want at most %d", n, seconds, burst+seconds)
	}
	if strict < seconds*(each-1)-burst {
		t.Errorf("only %d of %d definitions were in doubt", strict, seconds*each)
	}
}

func TestALoadThatTakesLongIsFollowedByABreak(t *testing.T) {
	s := newShelf(t)
	s.during = func() { s.pass(2 * time.Second) }
	for range 10 {
		s.entry.want()
		if err := s.ask(t); err != nil {
			t.Fatal(err)
		}
		s.pass(time.Second)
	}
	if n := s.loads.Load(); n != 2 {
		t.Errorf("%d loads of two seconds each in %v, want 2", n, s.Now().Sub(time.Unix(1_000_000, 0)))
	}
}

func TestAFailedLoadIsRetriedAndOpensNothing(t *testing.T) {
	s := newShelf(t)
	s.err = errors.New("the target is away")
	err := s.entry.await(t.Context(), s.load)
	if !errors.Is(err, catalog.ErrCatalog) || !errors.Is(err, s.err) {
		t.Fatalf("a session began with %v", err)
	}
	if err := s.entry.await(t.Context(), s.load); !errors.Is(err, s.err) || s.loads.Load() != 1 {
		t.Errorf("at once again: %v, %d loads", err, s.loads.Load())
	}
	s.pass(maxBackoff)
	s.err = nil
	if err := s.entry.await(t.Context(), s.load); err != nil || s.doubt() {
		t.Fatalf("behind the failure: %v, doubt %v", err, s.doubt())
	}
	s.err = errors.New("away again")
	s.db.opened()
	s.db.closed()
	if err := s.ask(t); !errors.Is(err, s.err) || !s.doubt() {
		t.Errorf("%v, doubt %v", err, s.doubt())
	}
	if err := s.entry.await(t.Context(), s.load); err != nil {
		t.Errorf("a session does not start with what is known: %v", err)
	}
	s.err = nil
	for range 10 {
		s.pass(time.Second)
		if err := s.ask(t); err != nil {
			t.Fatal(err)
		}
	}
	if s.doubt() {
		t.Error("it was not loaded again")
	}
}

func TestALoadThatPanicsIsAFailure(t *testing.T) {
	s := newShelf(t)
	s.during = func() { panic("hostile bytes") }
	if err := s.entry.await(t.Context(), s.load); !errors.Is(err, catalog.ErrCatalog) {
		t.Errorf("a session began with %v", err)
	}
}

func TestACatalogDoesNotOutliveItsAge(t *testing.T) {
	s := newShelf(t)
	if err := s.ask(t); err != nil {
		t.Fatal(err)
	}
	s.pass(softAge + time.Second)
	end := make(chan struct{})
	s.during = func() { <-end }
	if f := s.entry.fetch(t.Context(), s.load); f != nil || s.doubt() {
		t.Errorf("a message waits %v or doubts %v, while it is loaded in the background", f != nil, s.doubt())
	}
	s.pass(hardAge)
	f := s.entry.fetch(t.Context(), s.load)
	if f == nil || !s.doubt() || s.entry.usable() {
		t.Fatalf("too old: waits %v, doubts %v", f != nil, s.doubt())
	}
	close(end)
	if err := f.wait(t.Context()); err != nil || s.loads.Load() != 2 {
		t.Errorf("%v, %d loads", err, s.loads.Load())
	}
}

func TestWhatNobodySeesAnyMoreStaysInDoubtForAWhile(t *testing.T) {
	s := newShelf(t)
	s.db.opened()
	s.db.lost(s.Now().Add(time.Minute))
	if err := s.ask(t); err != nil || !s.doubt() {
		t.Errorf("%v, doubt %v", err, s.doubt())
	}
	s.pass(time.Minute + time.Second)
	if err := s.ask(t); err != nil || s.doubt() {
		t.Errorf("later: %v, doubt %v", err, s.doubt())
	}
}

func TestTheOldestCatalogGoesAndIsLoadedAgain(t *testing.T) {
	s := newShelf(t)
	if err := s.ask(t); err != nil {
		t.Fatal(err)
	}
	for i := range maxCatalogs + 10 {
		s.pass(time.Millisecond)
		db := s.all.enter(place{name: fmt.Sprint(i)})
		if err := db.entry(account{}).await(t.Context(), s.load); err != nil {
			t.Fatal(err)
		}
		db.leave()
	}
	if n := len(s.all.all); n > maxCatalogs+1 {
		t.Errorf("%d databases are kept", n)
	}
	if !s.doubt() {
		t.Error("the oldest is still there")
	}
	s.pass(time.Minute)
	if err := s.ask(t); err != nil || s.doubt() {
		t.Errorf("%v, doubt %v", err, s.doubt())
	}
	s.db.leave()
}

func TestADatabaseStaysAsLongAsASessionUsesIt(t *testing.T) {
	s := newShelf(t)
	if again := s.all.enter(place{name: "shop"}); again != s.db {
		t.Fatal("two sessions of one place have two databases")
	}
	s.db.leave()
	if again := s.all.enter(place{name: "shop"}); again != s.db {
		t.Fatal("it went with the first session")
	}
	s.db.leave()
	s.db.leave()
	if len(s.all.all) != 0 {
		t.Error("a database that nobody uses and nothing is known of is kept")
	}
}

func TestANameThatAServerCutsIsTheSamePlace(t *testing.T) {
	long := fmt.Sprintf("%063d", 1)
	if newPlace(place{}.target, 0, long) != newPlace(place{}.target, 0, long+"x") {
		t.Error("two places")
	}
}
