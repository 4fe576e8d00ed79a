package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/internal/testenv"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/record"
)

func TestRecordingHoldsOneDescriptor(t *testing.T) {
	for _, durability := range []record.Durability{record.Write, record.Sync} {
		l := mustOpen(t, t.TempDir(), Options{Durability: durability})
		before := descriptors(t)
		var open []*Recording
		for n := range 10 {
			r, err := l.Record(fmt.Sprintf("a%d", n))
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Append(Frame{Kind: FrameTag, Text: "x"}); err != nil {
				t.Fatal(err)
			}
			r.lapse()
			open = append(open, r)
		}
		if n := descriptors(t) - before; n != 10 {
			t.Errorf("10 recordings hold %d descriptors", n)
		}
		for _, r := range open {
			if _, err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		if n := descriptors(t) - before; n != 0 {
			t.Errorf("%d descriptors are left", n)
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

func TestSessionHasOneRecording(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	mustRecord(t, l, "a1", someFrames()...)
	r, err := l.Record("a1")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Append(someFrames()[0]); err != nil {
		t.Fatal(err)
	}
	r.lapse()
	if err := r.Append(someFrames()[0]); !errors.Is(err, ErrNoAudit) {
		t.Errorf("a frame behind the anchor: %v", err)
	}
	if anchor, err := r.Close(); err == nil || anchor != nil {
		t.Errorf("close: %v, %v", anchor, err)
	}
	if v := mustVerify(t, state); !v.OK() {
		t.Errorf("verify: %v", v.Problems)
	}
}

func TestDescriptorShortageDeniesNoLongerThanItLasts(t *testing.T) {
	for _, durability := range []record.Durability{record.Write, record.Sync} {
		state := t.TempDir()
		l := mustOpen(t, state, Options{SegmentBytes: 1000, Durability: durability})
		mustRecord(t, l, "a1", someFrames()...)
		mustAppend(t, l, KindSessionOpen, opening("b2"))
		r, err := l.Record("b2")
		if err != nil {
			t.Fatal(err)
		}

		told := make(chan error, 2)
		r.Failed = func(err error) { told <- err }
		release := testenv.ExhaustDescriptors(t)
		if err := r.Append(someFrames()[0]); err != nil {
			t.Fatal(err)
		}
		if err := <-told; !errors.Is(err, ErrNoAudit) || !errors.Is(err, syscall.EMFILE) {
			t.Errorf("who waits is told %v", err)
		}
		other, err := l.Record("d4")
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			err := l.Append(KindDecision, decision("b2", "1", "SELECT 1", policy.Allow))
			if !errors.Is(err, ErrNoAudit) || !errors.Is(err, syscall.EMFILE) {
				t.Errorf("append: %v", err)
			}
			if err := r.Append(someFrames()[0]); !errors.Is(err, ErrNoAudit) || !errors.Is(err, syscall.EMFILE) {
				t.Errorf("append frame: %v", err)
			}
			if err := other.Append(someFrames()[0]); !errors.Is(err, ErrNoAudit) || !errors.Is(err, syscall.EMFILE) {
				t.Errorf("first frame of a recording that comes later: %v", err)
			}
		}
		if err := l.Err(); !errors.Is(err, ErrNoAudit) || !errors.Is(err, syscall.EMFILE) {
			t.Errorf("the log says %v", err)
		}
		release()

		// A frame is missing from this recording: it takes no later one.
		if err := r.Append(someFrames()[0]); !errors.Is(err, ErrNoAudit) {
			t.Errorf("append frame: %v", err)
		}
		anchor, err := r.Close()
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, l, KindSessionEnd, SessionEnd{Session: "b2", Reason: "error", Recording: anchor})
		mustRecord(t, l, "c3", someFrames()...)
		if err := l.Err(); err != nil {
			t.Errorf("a log that works says %v", err)
		}
		if v := mustVerify(t, state); !v.OK() || v.Recordings != 3 || v.Sessions != 3 {
			t.Errorf("verify: %+v", v)
		}
	}
}

func TestWhoWaitsIsToldThatARecordingCannotBeWrittenAnyMore(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	r, err := l.Record("a1")
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan error, 2)
	r.Failed = func(err error) { told <- err }
	if err := r.Append(someFrames()[0]); err != nil {
		t.Fatal(err)
	}
	r.lapse() // it is created
	release := testenv.LimitFiles(t)
	if err := r.Append(someFrames()[0]); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-told:
		if !errors.Is(err, ErrNoAudit) || !errors.Is(err, syscall.EFBIG) {
			t.Errorf("who waits is told %v", err)
		}
	case <-time.After(20 * heldFor):
		t.Fatal("who waits is told nothing")
	}
	release()
	if err := r.Append(someFrames()[0]); !errors.Is(err, ErrNoAudit) {
		t.Errorf("a frame behind one that is missing: %v", err)
	}
	if _, err := r.Close(); err == nil {
		t.Error("closed as if nothing were missing")
	}
	if len(told) > 0 {
		t.Errorf("told again: %v", <-told)
	}
}

func TestRecordingWithoutASegmentIsNone(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	mustRecord(t, l, "a1")                  // its directory was created, and no more
	mustRecord(t, l, "b2", someFrames()...) // its segment was removed
	empty := filepath.Join(state, sessionsDir, "a1")
	if err := errors.Join(os.MkdirAll(empty, 0o700), os.Remove(filepath.Join(state, sessionsDir, "b2", "000001.log"))); err != nil {
		t.Fatal(err)
	}
	if err := VerifySession(state, "a1"); err != nil {
		t.Errorf("verify a1: %v", err)
	}
	if d, err := Session(state, "a1"); err != nil || d.Recording != nil {
		t.Errorf("session a1: %v, %v", err, d.Recording)
	}
	if err := VerifySession(state, "b2"); !errors.Is(err, ErrRecording) {
		t.Errorf("verify b2: %v", err)
	}
	if d, err := Session(state, "b2"); err != nil || !errors.Is(d.Recording, ErrRecording) {
		t.Errorf("session b2: %v, %v", err, d.Recording)
	}
}

// TestPrivilegedAgentsCannotFillTheDisk needs CAP_SYS_ADMIN to mount a small
// tmpfs.
func TestPrivilegedAgentsCannotFillTheDisk(t *testing.T) {
	state := t.TempDir()
	const flags = syscall.MS_NOSUID | syscall.MS_NODEV
	if err := syscall.Mount("tmpfs", state, "tmpfs", flags, "size=512k,mode=700"); err != nil {
		if os.Getenv("HEADGATE_PRIVILEGED") == "1" {
			t.Fatal(err)
		}
		t.Skipf("mounting a tmpfs needs CAP_SYS_ADMIN: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(state, 0); err != nil {
			t.Error(err)
		}
	})
	l := mustOpen(t, state, Options{})
	var open []string
	var err error
	for n := 0; err == nil && n < 10_000; n++ {
		id := fmt.Sprintf("s%d", n)
		if err = l.Append(KindSessionOpen, opening(id)); err == nil {
			open = append(open, id)
		}
	}
	mustBeLow(t, err)
	if free, total, err := diskOf(state); err != nil || free < total/smallDisk-4096 || free > total/2 {
		t.Errorf("%d of %d bytes are free, %v", free, total, err)
	}
	mustBeLow(t, l.Err())
	for _, id := range open[:50] {
		mustAppend(t, l, KindSessionEnd, SessionEnd{Session: id, Reason: "audit"})
	}
	if err := syscall.Mount("tmpfs", state, "", flags|syscall.MS_REMOUNT, "size=4m"); err != nil {
		t.Fatal(err)
	}
	l.floor.looked = l.floor.looked.Add(-floorInterval) // a second later
	mustRecord(t, l, "after", someFrames()...)
	if v := mustVerify(t, state); !v.OK() || v.Sessions != len(open)+1 || v.Open != len(open)-50 {
		t.Errorf("verify: %d sessions, %d open, %v", v.Sessions, v.Open, v.Problems)
	}
}
