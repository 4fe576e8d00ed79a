package record

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/internal/testenv"
)

// mustRefuse checks that an append fails with want, and that the log is as it
// was and says why.
func mustRefuse(t *testing.T, l *Log, n int, want error) {
	t.Helper()
	seq, hash := l.Head()
	_, err := l.Append("event", event{N: n})
	if !errors.Is(err, want) || errors.Is(err, ErrFailed) {
		t.Errorf("append: %v, want %v", err, want)
	}
	if err := l.Err(); !errors.Is(err, want) {
		t.Errorf("the log says %v, want %v", err, want)
	}
	if s, h := l.Head(); s != seq || h != hash {
		t.Errorf("head moved from %d %x to %d %x", seq, hash, s, h)
	}
}

func TestWriteWithoutRoomIsRolledBackAndTheNextAppendIsANewAttempt(t *testing.T) {
	for _, durability := range []Durability{Write, Sync, Deferred} {
		for _, shortage := range []error{syscall.ENOSPC, syscall.EDQUOT} {
			dir := t.TempDir()
			l := mustOpenPlain(t, dir, Options{Durability: durability})
			mustAppend(t, l, 1, 2)
			before := mustRead(t, filepath.Join(dir, "000001.log"))
			f := &faulty{file: l.file, short: 20, write: shortage}
			l.file = f
			for range 3 {
				mustRefuse(t, l, -1, shortage)
				if diff := cmp.Diff(string(before), string(mustRead(t, filepath.Join(dir, "000001.log")))); diff != "" {
					t.Errorf("not rolled back: -want +got\n%s", diff)
				}
			}
			f.short = -1
			mustAppend(t, l, 3, 4)
			if err := l.Err(); err != nil {
				t.Errorf("a log that works says %v", err)
			}
			mustClose(t, l)
			if diff := cmp.Diff(count(4), numbers(t, dir)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		}
	}
}

func TestSegmentThatCannotBeCreatedIsTriedAgainByTheNextAppend(t *testing.T) {
	for _, durability := range []Durability{Write, Sync, Deferred} {
		for _, shortage := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOSPC} {
			dir := t.TempDir()
			l := mustOpen(t, dir, Options{SegmentBytes: 400, Durability: durability})
			mustAppend(t, l, 1, 1)
			create := l.create
			l.create = func(uint64) (file, error) { return nil, shortage }
			for range 3 {
				mustRefuse(t, l, -1, shortage)
			}
			mustHaveSegments(t, dir, 1)
			l.create = create
			mustAppend(t, l, 2, 3)
			if err := l.Err(); err != nil {
				t.Errorf("a log that works says %v", err)
			}
			mustHaveSegments(t, dir, 3)
			mustClose(t, l)
			if diff := cmp.Diff(count(3), numbers(t, dir)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		}
	}
}

func mustHaveSegments(t *testing.T, dir string, want uint64) {
	t.Helper()
	if n, err := Segments(dir); n != want || err != nil {
		t.Errorf("%d segments, want %d, %v", n, want, err)
	}
}

// failNext makes the segments that l creates fail like f.
func failNext(l *Log, f *faulty) (restore func()) {
	create := l.create
	l.create = func(n uint64) (file, error) {
		created, err := create(n)
		f.file = created
		return f, err
	}
	return func() { l.create = create }
}

func TestSegmentWithoutRoomForItsHeaderIsTakenBackAndTriedAgain(t *testing.T) {
	for _, durability := range []Durability{Write, Sync} {
		for _, short := range []int{0, 30} {
			dir := t.TempDir()
			l := mustOpen(t, dir, Options{SegmentBytes: 400, Durability: durability})
			mustAppend(t, l, 1, 1)
			restore := failNext(l, &faulty{short: short})
			for range 3 {
				mustRefuse(t, l, -1, syscall.ENOSPC)
				mustHaveSegments(t, dir, 1)
			}
			restore()
			mustAppend(t, l, 2, 3)
			mustClose(t, l)
			if diff := cmp.Diff(count(3), numbers(t, dir)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		}
	}
}

func TestEntryWithoutRoomBehindTheHeaderOfANewSegmentIsTriedAgainThere(t *testing.T) {
	dir := t.TempDir()
	l := mustOpenPlain(t, dir, Options{SegmentBytes: 400})
	mustAppend(t, l, 1, 1)
	create := l.create
	var f *headerOnly
	l.create = func(n uint64) (file, error) {
		created, err := create(n)
		f = &headerOnly{file: created}
		return f, err
	}
	for range 2 {
		if _, err := l.Append("event", event{N: -1}); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrFailed) {
			t.Errorf("append: %v", err)
		}
		mustHaveSegments(t, dir, 2)
	}
	l.file = f.file
	mustAppend(t, l, 2, 2)
	mustClose(t, l)
	if diff := cmp.Diff(count(2), numbers(t, dir)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// headerOnly is a segment file that has room for one line.
type headerOnly struct {
	file
	written bool
}

func (f *headerOnly) Write(b []byte) (int, error) {
	if f.written {
		return 0, syscall.ENOSPC
	}
	f.written = true
	return f.file.Write(b)
}

func TestRotationThatLeavesDoubtPoisonsTheLog(t *testing.T) {
	for name, c := range map[string]func(l *Log){
		"header fails otherwise":       func(l *Log) { failNext(l, &faulty{short: 30, write: syscall.EIO}) },
		"header cannot be rolled back": func(l *Log) { failNext(l, &faulty{short: 30, truncate: syscall.EIO}) },
		"segment cannot be removed": func(l *Log) {
			failNext(l, &faulty{short: 30})
			l.remove = func(uint64) error { return syscall.EIO }
		},
		"somebody else made the segment": func(l *Log) {
			l.create = func(uint64) (file, error) { return nil, syscall.EEXIST }
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := mustOpen(t, dir, Options{SegmentBytes: 400})
			mustAppend(t, l, 1, 1)
			create, remove := l.create, l.remove
			c(l)
			if _, err := l.Append("event", event{N: 2}); !errors.Is(err, ErrFailed) {
				t.Errorf("append: %v", err)
			}
			l.create, l.remove = create, remove
			mustStayFailed(t, l, dir, count(1))
		})
	}
}

func TestFailedSyncOfTheDirectoryPoisonsTheLog(t *testing.T) {
	for _, durability := range []Durability{Sync, Deferred} {
		dir := t.TempDir()
		l := mustOpen(t, dir, Options{SegmentBytes: 400, Durability: durability})
		mustAppend(t, l, 1, 1)
		seq, hash := l.Head()
		// The kernel syncs no pipes.
		r, w, err := os.Pipe()
		if err = errors.Join(err, w.Close(), l.dir.Close()); err != nil {
			t.Fatal(err)
		}
		l.dir = r
		if _, err := l.Append("event", event{N: 2}); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EINVAL) {
			t.Errorf("append: %v", err)
		}
		if s, h := l.Head(); s != seq || h != hash {
			t.Errorf("head moved from %d %x to %d %x", seq, hash, s, h)
		}
		mustStayFailed(t, l, dir, count(1))
	}
}

func TestReaderPassesOverASegmentThatWasTakenBack(t *testing.T) {
	dir := t.TempDir()
	mustAppend(t, mustOpenPlain(t, dir, Options{}), 1, 2)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	}()
	w := walker{root: root, last: 2} // it was there when the segments were listed
	if err := w.walk(1, func(Entry) bool { return true }); err != nil || w.total != 2 {
		t.Errorf("%d entries, %v", w.total, err)
	}
	w = walker{root: root, last: 3}
	if err := w.walk(1, func(Entry) bool { return true }); err == nil {
		t.Error("a segment is missing in the middle, and nobody says so")
	}
}

func TestDescriptorShortageLastsNoLongerThanItself(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{SegmentBytes: 400})
	mustAppend(t, l, 1, 1)
	created, err := Create(filepath.Join(dir, "created"), Options{Durability: Deferred})
	if err != nil {
		t.Fatal(err)
	}
	release := testenv.ExhaustDescriptors(t)
	mustRefuse(t, l, -1, syscall.EMFILE)
	if _, err := Create(filepath.Join(dir, "other"), Options{}); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("create: %v", err)
	}
	mustAppend(t, created, 1, 2)
	if err := created.Sync(); err != nil {
		t.Errorf("a log that has all descriptors that it needs: %v", err)
	}
	release()
	mustAppend(t, l, 2, 3)
	mustClose(t, l)
	mustClose(t, created)
	again, err := Create(filepath.Join(dir, "other"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, again)
	if diff := cmp.Diff(count(3), numbers(t, dir)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestCreatedLogKeepsOneDescriptor(t *testing.T) {
	for _, durability := range []Durability{Write, Sync, Deferred} {
		dir := filepath.Join(t.TempDir(), "log")
		before := descriptors(t)
		l, err := Create(dir, Options{Durability: durability, SegmentBytes: 400})
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, l, 1, 5)
		if n := descriptors(t) - before; n != 1 {
			t.Errorf("%d descriptors", n)
		}
		if err := l.Sync(); err != nil {
			t.Error(err)
		}
		mustClose(t, l)
		if n := descriptors(t) - before; n != 0 {
			t.Errorf("%d descriptors after closing", n)
		}
		mustHaveSegments(t, dir, 1)
		if _, err := Create(dir, Options{}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("a second log: %v", err)
		}
		stray := t.TempDir()
		mustWrite(t, filepath.Join(stray, "000002.log"), nil)
		if _, err := Create(stray, Options{}); !errors.Is(err, ErrBroken) {
			t.Errorf("a directory with a later segment: %v", err)
		}
		if n := descriptors(t) - before; n != 0 {
			t.Errorf("%d descriptors after failures", n)
		}
		if diff := cmp.Diff(count(5), numbers(t, dir)); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestDeferredLogSyncsWhenItIsTold(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Options{Durability: Deferred})
	f := &faulty{file: l.file, short: -1}
	l.file = f
	mustAppend(t, l, 1, 3)
	if n := f.syncs.Load(); n != 0 {
		t.Errorf("%d syncs before anybody asked", n)
	}
	if err := l.Sync(); err != nil || f.syncs.Load() != 1 {
		t.Errorf("%d syncs, %v", f.syncs.Load(), err)
	}
}

// TestPrivilegedDiskFull needs CAP_SYS_ADMIN to mount a small tmpfs.
func TestPrivilegedDiskFull(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "size=64k,mode=700"); err != nil {
		if os.Getenv("HEADGATE_PRIVILEGED") == "1" {
			t.Fatal(err)
		}
		t.Skipf("mounting a tmpfs needs CAP_SYS_ADMIN: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(disk, "log")
	l := mustOpen(t, dir, Options{SegmentBytes: 16 << 10})
	var written int
	var err error
	for n := 1; n < 10000; n++ {
		if _, err = l.Append("event", event{N: n}); err != nil {
			break
		}
		written = n
	}
	if errors.Is(err, ErrFailed) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("append number %d: %v", written+1, err)
	}
	report, err := Verify(dir)
	if err != nil || report.TornBytes != 0 || report.Seq != uint64(written) {
		t.Errorf("after the disk was full: %+v, %v; %d were written", report, err, written)
	}
	if err := syscall.Mount("tmpfs", disk, "", syscall.MS_REMOUNT|syscall.MS_NOSUID|syscall.MS_NODEV, "size=128k"); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, written+1, written+20)
	mustClose(t, l)
	if diff := cmp.Diff(count(written+20), numbers(t, dir)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestPrivilegedJournalOnAFullDisk needs CAP_SYS_ADMIN to mount a small tmpfs, on
// which there is room for a journal and then none for what is in it.
func TestPrivilegedJournalOnAFullDisk(t *testing.T) {
	disk := t.TempDir()
	const flags = syscall.MS_NOSUID | syscall.MS_NODEV
	if err := syscall.Mount("tmpfs", disk, "tmpfs", flags, "size=512k,mode=700"); err != nil {
		if os.Getenv("HEADGATE_PRIVILEGED") == "1" {
			t.Fatal(err)
		}
		t.Skipf("mounting a tmpfs needs CAP_SYS_ADMIN: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(disk, "log")
	l := mustJournal(t, dir, Options{})
	written, err := 1, error(nil)
	for ; err == nil && written < 10_000; written++ {
		_, err = l.Append("event", event{N: written + 1})
	}
	written--
	if errors.Is(err, ErrFailed) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("append number %d: %v", written+1, err)
	}
	mustRefuse(t, l, -1, syscall.ENOSPC)
	if len(l.journal.lines()) == 0 {
		t.Error("nothing is in the journal")
	}
	mustHold(t, dir, count(written))
	left := mustCopy(t, dir)
	if err := syscall.Mount("tmpfs", disk, "", syscall.MS_REMOUNT|flags, "size=1m"); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, written+1, written+20)
	mustClose(t, l)
	mustHold(t, dir, count(written+20))
	mustClose(t, mustRecover(t, left, Recovery{}))
	mustHold(t, left, count(written))
}
