package process

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func id(pid uint32) ID { return ID{PID: pid, Start: uint64(pid) * 1000} }

func image(exec uint64, exe string) *Image { return &Image{Exec: exec, Exe: exe} }

func grown(t *testing.T, tree *Tree, events ...Event) {
	t.Helper()
	for _, ev := range events {
		if err := tree.Apply(ev); err != nil {
			t.Fatalf("apply %+v: %v", ev, err)
		}
	}
}

func lineageOf(p *Process) []string {
	var l []string
	for _, a := range p.Lineage() {
		l = append(l, fmt.Sprintf("%d %s", a.ID.PID, a.Image.Exe))
	}
	return l
}

func mustLookup(t *testing.T, tree *Tree, id ID, exec uint64) *Process {
	t.Helper()
	p, ok := tree.Lookup(id, exec)
	if !ok {
		t.Fatalf("process %v with the image of %d is not known", id, exec)
	}
	return p
}

// runner returns a tree: 1 runner → 2 sh → 3 psql, where 2 and 3 were forked
// and then executed something.
func runner(t *testing.T) *Tree {
	t.Helper()
	tree := NewTree(1000)
	root := id(1)
	grown(t, tree,
		Event{Kind: Enrol, Time: 10, ID: root, Root: root, Image: image(5, "/bin/runner")},
		Event{Kind: Fork, Time: 11, ID: id(2), Parent: root, Root: root, Image: &Image{Exec: 5}},
		Event{Kind: Exec, Time: 12, ID: id(2), Root: root, Image: image(12, "/bin/sh")},
		Event{Kind: Fork, Time: 13, ID: id(3), Parent: id(2), Root: root, Image: &Image{Exec: 12}},
		Event{Kind: Exec, Time: 14, ID: id(3), Root: root, Image: image(14, "/usr/bin/psql")},
	)
	return tree
}

func TestLineageNamesEveryAncestorWithItsImageAtTheFork(t *testing.T) {
	tree := runner(t)
	grown(t, tree, Event{Kind: Exec, Time: 20, ID: id(2), Root: id(1), Image: image(20, "/bin/sleep")})
	p := mustLookup(t, tree, id(3), 14)
	if diff := cmp.Diff([]string{"3 /usr/bin/psql", "2 /bin/sh", "1 /bin/runner"}, lineageOf(p)); diff != "" {
		t.Errorf("lineage (-want +got):\n%s", diff)
	}
	if p.Partial || p.Depth != 2 || p.Root != id(1) {
		t.Errorf("partial=%v depth=%d root=%v, want a whole lineage of depth 2 under %v", p.Partial, p.Depth, p.Root, id(1))
	}
}

func TestForkedChildIsFoundWithTheImageItInherited(t *testing.T) {
	tree := runner(t)
	p := mustLookup(t, tree, id(3), 12)
	if diff := cmp.Diff([]string{"3 /bin/sh", "2 /bin/sh", "1 /bin/runner"}, lineageOf(p)); diff != "" {
		t.Errorf("lineage (-want +got):\n%s", diff)
	}
}

func TestImageBeforeAnExecStaysFindable(t *testing.T) {
	tree := runner(t)
	grown(t, tree, Event{Kind: Exec, Time: 30, ID: id(3), Root: id(1), Image: image(30, "/bin/true")})
	if got := mustLookup(t, tree, id(3), 14).Image.Exe; got != "/usr/bin/psql" {
		t.Errorf("image at connect = %s, want the one before the exec", got)
	}
	if got := mustLookup(t, tree, id(3), 30).Image.Exe; got != "/bin/true" {
		t.Errorf("image = %s, want the latest", got)
	}
}

func TestImagesOfOneProcessAreBounded(t *testing.T) {
	tree := runner(t)
	for i := range uint64(40) {
		grown(t, tree, Event{Kind: Exec, Time: 100 + i, ID: id(3), Root: id(1), Image: image(100+i, "/bin/x")})
	}
	if _, ok := tree.Lookup(id(3), 100); ok {
		t.Error("the oldest image is still held")
	}
	mustLookup(t, tree, id(3), 139)
	mustLookup(t, tree, id(3), 139-maxImages+1)
}

func TestReusedPidIsAnotherProcess(t *testing.T) {
	tree := runner(t)
	again := ID{PID: 3, Start: 999_999}
	grown(t, tree,
		Event{Kind: Exit, Time: 40, ID: id(3), Root: id(1)},
		Event{Kind: Fork, Time: 41, ID: again, Parent: id(1), Root: id(1), Image: &Image{Exec: 5}},
	)
	if got := mustLookup(t, tree, id(3), 14).Image.Exe; got != "/usr/bin/psql" {
		t.Errorf("the exited process has image %s", got)
	}
	if diff := cmp.Diff([]string{"3 /bin/runner", "1 /bin/runner"}, lineageOf(mustLookup(t, tree, again, 5))); diff != "" {
		t.Errorf("lineage of the new process (-want +got):\n%s", diff)
	}
}

func TestExitedAncestorsStayInTheLineageForEver(t *testing.T) {
	tree := runner(t)
	later := 15 + keepExited + 2
	grown(t, tree,
		Event{Kind: Exit, Time: 15, ID: id(2), Root: id(1)},
		Event{Kind: Exec, Time: later, ID: id(3), Root: id(1), Image: image(later, "/bin/late")},
	)
	if _, ok := tree.Lookup(id(2), 12); ok {
		t.Error("a process that exited over five minutes ago is still findable")
	}
	p := mustLookup(t, tree, id(3), later)
	if diff := cmp.Diff([]string{"3 /bin/late", "2 /bin/sh", "1 /bin/runner"}, lineageOf(p)); diff != "" {
		t.Errorf("lineage (-want +got):\n%s", diff)
	}
}

func TestExitedProcessIsFindableForFiveMinutes(t *testing.T) {
	tree := runner(t)
	grown(t, tree,
		Event{Kind: Exit, Time: 15, ID: id(3), Root: id(1)},
		Event{Kind: Exec, Time: 15 + keepExited, ID: id(2), Root: id(1), Image: image(50, "/bin/x")},
	)
	mustLookup(t, tree, id(3), 14)
}

func TestLostForkEventMakesTheProcessPartial(t *testing.T) {
	tree := runner(t)
	grown(t, tree, Event{Kind: Exec, Time: 50, ID: id(9), Root: id(1), Image: image(50, "/bin/curl")})
	p := mustLookup(t, tree, id(9), 50)
	if !p.Partial || p.Parent != nil || p.Image.Exe != "/bin/curl" {
		t.Errorf("got %+v, want a partial process with its image", p)
	}
}

func TestForkByAnUnknownParentIsPartialAndSoAreItsChildren(t *testing.T) {
	tree := runner(t)
	grown(t, tree,
		Event{Kind: Fork, Time: 50, ID: id(9), Parent: id(8), Root: id(1), Image: &Image{Exec: 7}},
		Event{Kind: Fork, Time: 51, ID: id(10), Parent: id(9), Root: id(1), Image: &Image{Exec: 7}},
		Event{Kind: Exec, Time: 52, ID: id(10), Root: id(1), Image: image(52, "/bin/curl")},
	)
	for _, p := range []*Process{mustLookup(t, tree, id(9), 7), mustLookup(t, tree, id(10), 52)} {
		if !p.Partial {
			t.Errorf("process %v is not partial", p.ID)
		}
	}
}

func TestLostExecEventMakesTheChildPartialButNotItsNextImage(t *testing.T) {
	tree := runner(t)
	grown(t, tree, Event{Kind: Fork, Time: 50, ID: id(9), Parent: id(2), Root: id(1), Image: &Image{Exec: 45}})
	if p := mustLookup(t, tree, id(9), 45); !p.Partial || p.Image.Exe != "" {
		t.Errorf("got image %q partial=%v, want an unknown image", p.Image.Exe, p.Partial)
	}
	grown(t, tree, Event{Kind: Exec, Time: 60, ID: id(9), Root: id(1), Image: image(60, "/bin/curl")})
	if p := mustLookup(t, tree, id(9), 60); p.Parent == nil || p.Parent.ID != id(2) {
		t.Errorf("parent of %+v is lost", p)
	}
}

func TestRootSeededFromProcIsWholeAgainAfterExec(t *testing.T) {
	tree := NewTree(10)
	grown(t, tree,
		Event{Kind: Enrol, Time: 1, ID: id(1), Root: id(1), Image: image(0, "/bin/headgate"), Partial: true},
		Event{Kind: Exec, Time: 2, ID: id(1), Root: id(1), Image: image(2, "/bin/job")},
	)
	if !mustLookup(t, tree, id(1), 0).Partial {
		t.Error("an image that was read from /proc counts as certain")
	}
	if mustLookup(t, tree, id(1), 2).Partial {
		t.Error("an image that the kernel reported counts as partial")
	}
}

func TestDeepLineageKeepsTheNearestAndTheRoot(t *testing.T) {
	tree := NewTree(1000)
	grown(t, tree, Event{Kind: Enrol, ID: id(1), Root: id(1), Image: image(1, "/bin/root")})
	for pid := uint32(2); pid <= 200; pid++ {
		grown(t, tree, Event{Kind: Fork, Time: uint64(pid), ID: id(pid), Parent: id(pid - 1), Root: id(1), Image: &Image{Exec: 1}})
		p := mustLookup(t, tree, id(pid), 1)
		l := p.Lineage()
		if len(l) > maxDepth+1 || len(l) != p.Depth+1 {
			t.Fatalf("process %d has %d ancestors at depth %d", pid, len(l)-1, p.Depth)
		}
		if l[len(l)-1].ID != id(1) {
			t.Fatalf("the lineage of %d ends at %v, not at the root", pid, l[len(l)-1].ID)
		}
		for i := 1; i < min(len(l), keepNearest); i++ {
			if l[i].ID != id(pid-uint32(i)) {
				t.Fatalf("ancestor %d of %d is %v", i, pid, l[i].ID)
			}
		}
		if p.Partial != (pid > maxDepth+1) {
			t.Fatalf("process %d: partial=%v", pid, p.Partial)
		}
	}
}

func TestFullTreeRefusesButForgetsTheExitedFirst(t *testing.T) {
	tree := NewTree(3)
	root := id(1)
	grown(t, tree,
		Event{Kind: Enrol, ID: root, Root: root},
		Event{Kind: Fork, ID: id(2), Parent: root, Root: root},
		Event{Kind: Fork, ID: id(3), Parent: root, Root: root},
	)
	if err := tree.Apply(Event{Kind: Fork, ID: id(4), Parent: root, Root: root}); !errors.Is(err, ErrFull) {
		t.Fatalf("apply to a full tree: %v, want ErrFull", err)
	}
	grown(t, tree,
		Event{Kind: Exit, ID: id(2), Root: root},
		Event{Kind: Fork, ID: id(4), Parent: root, Root: root},
	)
	if tree.Len() != 3 {
		t.Errorf("tree holds %d processes, want 3", tree.Len())
	}
	if err := NewTree(0).Apply(Event{Kind: Enrol, ID: root, Root: root}); !errors.Is(err, ErrFull) {
		t.Errorf("a tree without room took a process: %v", err)
	}
}

func TestEventOfNoKindIsRefused(t *testing.T) {
	if err := NewTree(1).Apply(Event{ID: id(1)}); !errors.Is(err, ErrKind) {
		t.Errorf("got %v, want ErrKind", err)
	}
}

func TestEventAppliedTwiceChangesNothing(t *testing.T) {
	tree := runner(t)
	before := mustLookup(t, tree, id(3), 14)
	grown(t, tree,
		Event{Kind: Fork, Time: 13, ID: id(3), Parent: id(2), Root: id(1), Image: &Image{Exec: 12}},
		Event{Kind: Exec, Time: 14, ID: id(3), Root: id(1), Image: image(14, "/usr/bin/psql")},
		Event{Kind: Exit, Time: 15, ID: id(3), Root: id(1)},
		Event{Kind: Exit, Time: 15, ID: id(3), Root: id(1)},
	)
	if after := mustLookup(t, tree, id(3), 14); after != before {
		t.Error("the process was replaced")
	}
	if len(tree.exited) != 1 {
		t.Errorf("exit is queued %d times", len(tree.exited))
	}
}

func TestWaitReturnsWhenTheImageArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tree := runner(t)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				p, err := tree.Wait(t.Context(), id(3), 60)
				if err != nil || p.Image.Exe != "/bin/late" {
					t.Errorf("wait: %+v, %v", p, err)
				}
			})
		}
		synctest.Wait()
		// Another image of the same process must not satisfy anybody.
		grown(t, tree, Event{Kind: Exec, Time: 55, ID: id(3), Root: id(1), Image: image(55, "/bin/early")})
		synctest.Wait()
		grown(t, tree, Event{Kind: Exec, Time: 60, ID: id(3), Root: id(1), Image: image(60, "/bin/late")})
		wg.Wait()
		if len(tree.waiters) != 0 {
			t.Errorf("%d waiters are left", len(tree.waiters))
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tree := runner(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		p, err := tree.Wait(ctx, id(77), 1)
		if p != nil || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait: %v, %v", p, err)
		}
		if len(tree.waiters) != 0 {
			t.Errorf("%d waiters are left", len(tree.waiters))
		}
	})
}

func TestGuessIsAlwaysPartial(t *testing.T) {
	tree := runner(t)
	p := tree.Guess(id(3))
	if p == nil || !p.Partial || p.Image.Exe != "/usr/bin/psql" {
		t.Errorf("guess = %+v", p)
	}
	if mustLookup(t, tree, id(3), 14).Partial {
		t.Error("guessing changed the process itself")
	}
	if tree.Guess(id(99)) != nil {
		t.Error("something is known of a process nobody saw")
	}
}

func TestTreeServesReadersWhileItGrows(t *testing.T) {
	tree := NewTree(100)
	grown(t, tree, Event{Kind: Enrol, ID: id(1), Root: id(1), Image: image(1, "/bin/root")})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for pid := uint32(1); pid < 2000; pid++ {
				if p, ok := tree.Lookup(id(pid), 1); ok && p.Lineage()[0].ID != id(pid) {
					t.Errorf("process %d is somebody else", pid)
				}
			}
		})
	}
	for pid := uint32(2); pid < 2000; pid++ {
		grown(t, tree,
			Event{Kind: Fork, ID: id(pid), Parent: id(1), Root: id(1), Image: &Image{Exec: 1}},
			Event{Kind: Exit, ID: id(pid), Root: id(1)},
		)
	}
	wg.Wait()
}

func TestProcessWhoseExitWasLostIsDroppedAfterRetain(t *testing.T) {
	tree := runner(t)
	// id(3) has exited and nobody was told; id(4) started after the listing.
	late := ID{PID: 4, Start: 9000}
	grown(t, tree, Event{Kind: Enrol, Time: 15, ID: late, Root: late, Image: image(15, "/bin/late")})
	tree.Retain(map[ID]bool{id(1): true, id(2): true}, 8000)
	mustLookup(t, tree, id(3), 14)
	// Its exit event, should it come after all, changes nothing.
	grown(t, tree, Event{Kind: Exit, Time: 16, ID: id(3), Root: id(1)})
	grown(t, tree, Event{Kind: Exec, Time: 8001 + keepExited, ID: id(2), Root: id(1), Image: image(99, "/bin/next")})
	if _, ok := tree.Lookup(id(3), 14); ok {
		t.Error("a process that is not alive stays for ever")
	}
	for _, alive := range []ID{id(1), id(2), late} {
		if tree.Guess(alive) == nil {
			t.Errorf("the living process %v was dropped", alive)
		}
	}
}

func TestRetainMakesRoomInAFullTree(t *testing.T) {
	tree := NewTree(1)
	grown(t, tree, Event{Kind: Enrol, Time: 1, ID: id(1), Root: id(1), Image: image(1, "/a")})
	next := Event{Kind: Enrol, Time: 2, ID: id(2), Root: id(2), Image: image(2, "/b")}
	if err := tree.Apply(next); !errors.Is(err, ErrFull) {
		t.Fatalf("apply to a full tree: %v", err)
	}
	tree.Retain(map[ID]bool{id(2): true}, 1_000_000)
	grown(t, tree, next)
	mustLookup(t, tree, id(2), 2)
}
