package audit

import (
	"errors"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/record"
)

// fakeDisk is a disk of which a test says how full it is.
type fakeDisk struct {
	free, total uint64
	err         error
	looks       int
}

func (d *fakeDisk) look() (free, total uint64, err error) {
	d.looks++
	return d.free, d.total, d.err
}

// manual is a clock that goes only when it is told to.
type manual struct{ at time.Time }

func (c *manual) now() time.Time          { return c.at }
func (c *manual) advance(d time.Duration) { c.at = c.at.Add(d) }

func newManual() *manual { return &manual{at: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)} }

// openOn opens a log on a fake disk.
func openOn(t *testing.T, d *fakeDisk, opts Options) (*Log, string) {
	t.Helper()
	state := t.TempDir()
	l := mustOpen(t, state, opts)
	l.floor.disk = d.look
	return l, state
}

func mustBeLow(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrNoAudit) || !errors.Is(err, ErrLowDisk) || errors.Is(err, record.ErrFailed) {
		t.Errorf("%v, want a disk that is nearly full", err)
	}
}

func TestBelowTheFloorAgentsAreRefusedAndTheDaemonsLastWordsAreNot(t *testing.T) {
	disk := &fakeDisk{free: 1 << 30, total: 1 << 40}
	at := newManual()
	l, state := openOn(t, disk, Options{MinFree: 1 << 20, Now: at.now})
	mustAppend(t, l, KindSessionOpen, opening("a1"))
	mustAppend(t, l, KindDecision, decision("a1", "1", "SELECT 1", policy.Allow))
	recording, err := l.Record("a1")
	if err != nil {
		t.Fatal(err)
	}
	if err := recording.Append(Frame{Kind: FrameTag, Text: "x"}); err != nil {
		t.Fatal(err)
	}

	disk.free = 1<<20 - 1
	at.advance(time.Second)
	mustBeLow(t, l.Append(KindSessionOpen, opening("b2")))
	mustBeLow(t, l.Append(KindDecision, decision("a1", "2", "SELECT 1", policy.Allow)))
	mustBeLow(t, l.Append(KindEnrol, Enrol{Agent: "ci"}))
	mustBeLow(t, l.Append("other", 1))
	mustBeLow(t, l.Err())
	mustBeLow(t, recording.Append(Frame{Kind: FrameTag, Text: "y"}))
	other, err := l.Record("b2")
	if err != nil {
		t.Fatal(err)
	}
	mustBeLow(t, other.Append(Frame{Kind: FrameTag, Text: "z"}))
	if _, err := other.Close(); err != nil {
		t.Error(err)
	}

	mustAppend(t, l, KindResult, Result{Session: "a1", Op: "1", Outcome: OutcomeOK})
	anchor, err := recording.Close()
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, KindSessionEnd, SessionEnd{Session: "a1", Reason: "error", Recording: anchor})
	mustAppend(t, l, KindPolicy, Policy{Generation: 1})
	mustAppend(t, l, KindDaemonStop, DaemonStop{Reason: "terminated"})
	mustClose(t, l)
	// The next daemon starts on the full disk, to say what is wrong.
	l = mustOpen(t, state, Options{MinFree: 1 << 62, Now: at.now})
	mustAppend(t, l, KindDaemonStart, DaemonStart{})
	mustBeLow(t, l.Err())
	mustBeLow(t, l.Append(KindSessionOpen, opening("c3")))

	if r := mustVerify(t, state); r.Sessions != 1 || r.Open != 0 || r.Recordings != 1 {
		t.Errorf("verify: %+v", r)
	}
}

func TestAboveTheFloorEventsAreTakenAgain(t *testing.T) {
	disk := &fakeDisk{free: 10, total: 1 << 40}
	at := newManual()
	l, _ := openOn(t, disk, Options{MinFree: 1 << 20, Now: at.now})
	mustBeLow(t, l.Append(KindSessionOpen, opening("a1")))
	disk.free = 1 << 30
	at.advance(floorInterval - 1)
	mustBeLow(t, l.Append(KindSessionOpen, opening("a1")))
	at.advance(1)
	mustAppend(t, l, KindSessionOpen, opening("a1"))
	if err := l.Err(); err != nil {
		t.Errorf("a log that works says %v", err)
	}
	// A clock that is set back does not hide the disk for longer.
	disk.free = 10
	at.advance(-time.Hour)
	mustBeLow(t, l.Append(KindSessionOpen, opening("b2")))
}

func TestDiskIsLookedAtOnceASecondOrOnceAMegabyte(t *testing.T) {
	disk := &fakeDisk{free: 1 << 30, total: 1 << 40}
	at := newManual()
	l, _ := openOn(t, disk, Options{MinFree: 1 << 20, Now: at.now})
	small := decision("a1", "1", "SELECT 1", policy.Allow)
	for range 500 {
		mustAppend(t, l, KindDecision, small)
	}
	if disk.looks != 1 {
		t.Errorf("%d looks for 500 small events at one time", disk.looks)
	}
	at.advance(floorInterval)
	for range 100 {
		mustAppend(t, l, KindResult, Result{Session: "a1", Error: string(make([]byte, maxWord))})
	}
	before := disk.looks
	mustAppend(t, l, KindDecision, small)
	if disk.looks != before+1 {
		t.Errorf("%d looks after two megabytes, %d before", disk.looks, before)
	}
	disk.free = 10
	at.advance(floorInterval)
	before = disk.looks
	for range 500 {
		mustBeLow(t, l.Append(KindDecision, small))
	}
	if disk.looks != before+1 {
		t.Errorf("%d looks for 500 refusals at one time", disk.looks-before)
	}
}

// TestAgentsStopAtTheFloorHoweverFastTheyAre lets time stand still: what was
// written since the last look must be enough to look again.
func TestAgentsStopAtTheFloorHoweverFastTheyAre(t *testing.T) {
	const least = 1 << 20
	disk := &fakeDisk{free: 8 << 20, total: 1 << 40}
	l, _ := openOn(t, disk, Options{MinFree: least, Now: newManual().now})
	admit := l.floor
	e := record.Entry{Time: newManual().at, Kind: KindDecision}
	for n := range 1 << 20 {
		size := int64(200 + n%5000)
		if err := admit.admit(e, size, 0); err != nil {
			mustBeLow(t, errors.Join(ErrNoAudit, err))
			if disk.free > least+8192 {
				t.Errorf("refused with %d bytes free", disk.free)
			}
			return
		}
		disk.free -= uint64(size)
		if disk.free < least {
			t.Fatalf("%d bytes are free after event %d", disk.free, n)
		}
	}
	t.Error("never refused")
}

func TestFloorIsRelativeToTheDiskUnlessItIsSaid(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		min         int64
		free, total uint64
		err         error
		low         bool
	}{
		"large disk":                     {0, 65 * mib, 1000 << 30, nil, false},
		"large disk, low":                {0, 63 * mib, 1000 << 30, nil, true},
		"small disk":                     {0, 30 << 10, 512 << 10, nil, false},
		"small disk, low":                {0, 25 << 10, 512 << 10, nil, true},
		"said":                           {mib, 2 * mib, 1000 << 30, nil, false},
		"said, low":                      {mib, mib - 1, 1000 << 30, nil, true},
		"off":                            {-1, 0, 1000 << 30, nil, false},
		"disk of no size":                {0, 0, 0, nil, false},
		"disk that cannot be looked at":  {0, 0, 0, errors.New("stale handle"), true},
		"disk that is full to the brim ": {0, 0, 512 << 10, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			disk := &fakeDisk{free: c.free, total: c.total, err: c.err}
			l, _ := openOn(t, disk, Options{MinFree: c.min})
			err := l.Append(KindDecision, decision("a1", "1", "SELECT 1", policy.Allow))
			if c.low != errors.Is(err, ErrNoAudit) || c.low != (l.Err() != nil) {
				t.Errorf("append: %v; the log says %v", err, l.Err())
			}
			if c.err != nil && !errors.Is(err, c.err) {
				t.Errorf("%v does not say %v", err, c.err)
			}
		})
	}
}

func TestErrSaysWhyNothingIsRecorded(t *testing.T) {
	var none *Log
	for name, l := range map[string]*Log{"nil": none, "zero": new(Log)} {
		if err := l.Err(); !errors.Is(err, ErrNoAudit) {
			t.Errorf("%s log: %v", name, err)
		}
	}
	l := mustOpen(t, t.TempDir(), Options{MinFree: -1})
	if err := l.Err(); err != nil {
		t.Errorf("open log: %v", err)
	}
	mustClose(t, l)
	if err := l.Err(); !errors.Is(err, ErrNoAudit) || !errors.Is(err, record.ErrClosed) {
		t.Errorf("closed log: %v", err)
	}
}
