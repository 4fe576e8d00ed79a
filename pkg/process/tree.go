package process

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// maxDepth bounds a lineage; a deeper one is cut to the nearest
	// keepNearest ancestors and the root.
	maxDepth    = 64
	keepNearest = 32
	// maxImages bounds how many images of one process stay findable.
	maxImages = 16
	// keepExited is how long an exited process stays findable, in the time of
	// the events. What a session holds it keeps itself.
	keepExited = uint64(5 * time.Minute)
)

var (
	// ErrKind is returned by [Tree.Apply] for an event of no known kind.
	ErrKind = errors.New("unknown kind of event")
	// ErrFull is returned by [Tree.Apply] when as many processes are alive as
	// the tree may hold. The event is dropped, and lineages through its process
	// are partial.
	ErrFull = errors.New("process tree is full")
)

// Tree knows the enrolled processes that live, and for five minutes those that
// have exited. Its methods may be called concurrently; events must be applied
// in the order in which they happened.
type Tree struct {
	limit int

	mu      sync.Mutex
	now     uint64
	entries map[ID]*entry
	exited  []exit // oldest first
	waiters map[ID]*waiter
}

type entry struct {
	images []*Process // oldest first, at most maxImages; never empty
	gone   bool
}

type exit struct {
	id   ID
	time uint64
}

type waiter struct {
	applied chan struct{}
	count   int
}

// NewTree returns an empty tree that holds at most limit processes, exited ones
// included. A tree with a limit of zero or less holds none.
func NewTree(limit int) *Tree {
	return &Tree{
		limit:   limit,
		entries: make(map[ID]*entry),
		waiters: make(map[ID]*waiter),
	}
}

// Apply takes in one event. An event that was applied before changes nothing.
// It returns [ErrKind] or [ErrFull]; the tree stays usable after either. The
// tree keeps ev.Image, which must not be changed any more.
func (t *Tree) Apply(ev Event) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = max(t.now, ev.Time)
	t.prune()

	var p *Process
	switch ev.Kind {
	case Fork:
		p = t.forked(ev)
	case Exec:
		p = t.executed(ev)
	case Enrol:
		p = t.enrolled(ev)
	case Exit:
		t.leave(ev)
		return nil
	default:
		return fmt.Errorf("apply event %d: %w", ev.Kind, ErrKind)
	}
	if err := t.put(p); err != nil {
		return fmt.Errorf("apply event of %v: %w", ev.ID, err)
	}
	if w := t.waiters[ev.ID]; w != nil {
		close(w.applied)
		delete(t.waiters, ev.ID)
	}
	return nil
}

// Retain takes the processes that are not in alive as exited: their events were
// lost. alive was true at asOf, in nanoseconds of the boot-time clock; processes
// that started later are left alone. The listing may be younger than events that
// are still to be applied: those change nothing then.
func (t *Tree) Retain(alive map[ID]bool, asOf uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = max(t.now, asOf)
	for id := range t.entries {
		if id.Start <= asOf && !alive[id] {
			t.leave(Event{ID: id, Time: t.now})
		}
	}
	t.prune()
}

// Lookup returns the process with the image that it executed since exec
// ([Image.Exec]), also if it has gone on to another image or has exited since.
// It reports false while the event for that image was not applied yet.
func (t *Tree) Lookup(id ID, exec uint64) (*Process, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.find(id, exec)
	return p, p != nil
}

// Wait is [Tree.Lookup] for a caller that may be ahead of the events: it blocks
// until the event for that image has been applied. When ctx ends first it
// returns ctx's error, and [Tree.Guess] is all that can be had.
func (t *Tree) Wait(ctx context.Context, id ID, exec uint64) (*Process, error) {
	for {
		p, w := t.findOrWait(id, exec)
		if p != nil {
			return p, nil
		}
		select {
		case <-w.applied:
		case <-ctx.Done():
			t.stopWaiting(id, w)
			return nil, fmt.Errorf("wait for process %v: %w", id, ctx.Err())
		}
	}
}

// Guess returns what is known best of a process whose current image is not
// known, marked Partial: its latest known image. It returns nil if nothing is
// known of the process.
func (t *Tree) Guess(id ID) *Process {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[id]
	if e == nil {
		return nil
	}
	p := *e.current()
	p.Partial = true
	return &p
}

// Len returns the number of processes that are held, exited ones included.
func (t *Tree) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.entries)
}

func (e *entry) current() *Process { return e.images[len(e.images)-1] }

func (e *entry) at(exec uint64) *Process {
	for i := len(e.images) - 1; i >= 0; i-- {
		if e.images[i].Image.Exec == exec {
			return e.images[i]
		}
	}
	return nil
}

func (t *Tree) find(id ID, exec uint64) *Process {
	if e := t.entries[id]; e != nil {
		return e.at(exec)
	}
	return nil
}

func (t *Tree) findOrWait(id ID, exec uint64) (*Process, *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.find(id, exec); p != nil {
		return p, nil
	}
	w := t.waiters[id]
	if w == nil {
		w = &waiter{applied: make(chan struct{})}
		t.waiters[id] = w
	}
	w.count++
	return nil, w
}

func (t *Tree) stopWaiting(id ID, w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w.count--
	if w.count == 0 && t.waiters[id] == w {
		delete(t.waiters, id)
	}
}

// forked makes the child's node. The event names the image that the child
// inherited by its exec time; where the parent is known with another image, an
// exec event was lost.
func (t *Tree) forked(ev Event) *Process {
	p := ev.node()
	parent := t.entries[ev.Parent]
	if parent == nil {
		p.Partial = true
		return p
	}
	p.Parent = parent.current()
	if ev.Image != nil {
		at := parent.at(ev.Image.Exec)
		if at == nil {
			p.Partial = true
			return p.attached()
		}
		p.Parent = at
	}
	p.Image = p.Parent.Image
	return p.attached()
}

// executed makes the node for a new image of a process: same parent, and none
// of what was not known of the image before.
func (t *Tree) executed(ev Event) *Process {
	p := ev.node()
	if e := t.entries[ev.ID]; e != nil {
		p.Parent = e.current().Parent
	}
	if p.Parent == nil && ev.ID != ev.Root {
		p.Partial = true
		return p
	}
	return p.attached()
}

// enrolled makes a root, or a descendant that was there before its root was
// enrolled.
func (t *Tree) enrolled(ev Event) *Process {
	p := ev.node()
	if ev.ID == ev.Root {
		return p
	}
	parent := t.entries[ev.Parent]
	if parent == nil {
		p.Partial = true
		return p
	}
	p.Parent = parent.current()
	return p.attached()
}

func (t *Tree) leave(ev Event) {
	e := t.entries[ev.ID]
	if e == nil || e.gone {
		return
	}
	e.gone = true
	t.exited = append(t.exited, exit{id: ev.ID, time: ev.Time})
}

// put stores a node as the current one of its process. What is already known
// with the same image stays, unless it was partial.
func (t *Tree) put(p *Process) error {
	e := t.entries[p.ID]
	if e == nil {
		if !t.makeRoom() {
			return ErrFull
		}
		t.entries[p.ID] = &entry{images: []*Process{p}}
		return nil
	}
	for i, old := range e.images {
		if old.Image.Exec != p.Image.Exec {
			continue
		}
		if old.Partial && !p.Partial {
			e.images[i] = p
		}
		return nil
	}
	if len(e.images) == maxImages {
		e.images = append(e.images[:0:0], e.images[1:]...)
	}
	e.images = append(e.images, p)
	return nil
}

// makeRoom drops the process that exited first if the tree is full.
func (t *Tree) makeRoom() bool {
	if len(t.entries) < t.limit {
		return true
	}
	if len(t.exited) == 0 || t.limit <= 0 {
		return false
	}
	t.dropOldest()
	return true
}

func (t *Tree) prune() {
	for len(t.exited) > 0 && t.exited[0].time+keepExited < t.now {
		t.dropOldest()
	}
}

func (t *Tree) dropOldest() {
	delete(t.entries, t.exited[0].id)
	t.exited = t.exited[1:]
}

// node makes a process without a parent of what the event tells.
func (ev Event) node() *Process {
	p := &Process{
		ID:      ev.ID,
		Image:   ev.Image,
		UID:     ev.UID,
		Cgroup:  ev.Cgroup,
		Root:    ev.Root,
		Partial: ev.Partial,
	}
	if p.Image == nil {
		p.Image = &Image{}
		p.Partial = p.Partial || ev.Kind != Fork
	}
	return p
}

// attached completes a node that was given its parent, and cuts its lineage
// where it has grown too deep.
func (p *Process) attached() *Process {
	if p.Parent == nil {
		return p
	}
	p.Partial = p.Partial || p.Parent.Partial
	p.Depth = p.Parent.Depth + 1
	if p.Depth <= maxDepth {
		return p
	}
	p.Parent = cut(p.Parent)
	p.Depth = p.Parent.Depth + 1
	p.Partial = true
	return p
}

// cut returns a copy of the lineage from p that consists of the nearest
// ancestors and the root.
func cut(p *Process) *Process {
	l := p.Lineage()
	below := *l[len(l)-1]
	below.Partial = true
	for i := keepNearest - 1; i >= 0; i-- {
		node, parent := *l[i], below
		node.Parent, node.Depth, node.Partial = &parent, parent.Depth+1, true
		below = node
	}
	return &below
}
