package catalog

// sealBehind finds out which relations run code of users because others do: each
// is visited again for each event at most.
func (c *Catalog) sealBehind() {
	t := tracer{Catalog: c, runs: make(map[uint32]*runs), parents: make(map[uint32][]uint32), children: make(map[uint32][]uint32)}
	if len(c.behind.origins) == 0 {
		return
	}
	for _, pair := range c.inherits {
		t.parents[pair[0]] = append(t.parents[pair[0]], pair[1])
		t.children[pair[1]] = append(t.children[pair[1]], pair[0])
	}
	for i := range c.behind.origins {
		o := &c.behind.origins[i]
		t.reach(o.oid, c.behind.events[i], o)
	}
	for len(t.queue) > 0 {
		next := t.queue[len(t.queue)-1]
		t.queue = t.queue[:len(t.queue)-1]
		t.follow(next)
	}
	c.behind.at = make(map[string]map[string]*runs)
	for oid, found := range t.runs {
		r := c.relations[oid]
		if r == nil || r.name == "" {
			continue
		}
		name := spelled(r.name)
		if c.behind.at[name] == nil {
			c.behind.at[name] = make(map[string]*runs, 1)
		}
		c.behind.at[name][spelled(r.schema)] = found
	}
}

// tracer follows events from a relation to those that hand theirs on to it.
type tracer struct {
	*Catalog
	runs              map[uint32]*runs
	parents, children map[uint32][]uint32
	queue             []reached
}

// reached are events of a relation at which it was found a moment ago to run
// something.
type reached struct {
	oid    uint32
	events events
	by     *origin
}

func (t *tracer) reach(oid uint32, at events, by *origin) {
	found := t.runs[oid]
	if found == nil {
		found = &runs{}
		t.runs[oid] = found
	}
	fresh := at &^ found.events
	if fresh == 0 {
		return
	}
	found.events |= fresh
	for i := range found.first {
		if fresh&(1<<i) != 0 {
			found.first[i] = by
		}
	}
	t.queue = append(t.queue, reached{oid, fresh, by})
}

func (t *tracer) follow(next reached) {
	for _, d := range t.readers[next.oid] {
		t.reach(d.view, handedOn(t.relations[d.view], next.events), next.by)
	}
	for _, i := range t.behind.implied[next.oid] {
		if next.events&i.event != 0 {
			t.reach(i.to, i.gives, next.by)
		}
	}
	for _, parent := range t.parents[next.oid] {
		t.reach(parent, fromPart(t.relations[parent], next.events), next.by)
	}
	if next.events&inParts != 0 {
		for _, child := range t.children[next.oid] {
			t.reach(child, inserted|updated|inParts, next.by)
		}
	}
}

// handedOn returns at which events of a view, or of a table with rules, those of a
// relation that it refers to happen.
func handedOn(r *relation, at events) events {
	switch {
	case r == nil:
		return modified | selected
	case r.stored && at&selected != 0:
		return rebuilt
	case r.stored:
		return 0
	case !r.view:
		return modified // whichever of them the rule is for
	case r.ruled && at&modified != 0:
		return modified | at&selected
	default:
		return at & (modified | selected | locked)
	}
}

// fromPart returns at which events of a parent those of a child or of a partition
// happen. An UPDATE may move a row from one partition to another, and a SELECT
// searches their indexes.
func fromPart(parent *relation, at events) events {
	handed := at & (selected | updated | deleted | truncated | rebuilt)
	if parent == nil || !parent.partitioned {
		return handed
	}
	if at&modified != 0 {
		handed |= updated
	}
	return handed | at&inserted
}
