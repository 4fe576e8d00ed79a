package statement

import "sync"

// cache keeps the facts of texts, bounded in entries and in estimated bytes.
// It has two generations: a text that is asked for again moves to the young
// one, and when that is full the old one is dropped. Losing an entry costs one
// more parse and nothing else. Safe for concurrent use.
type cache struct {
	mu         sync.RWMutex
	young, old map[string][]Statement
	bytes      int // of the young generation
	maxEntries int // per generation
	maxBytes   int // per generation
}

func newCache(entries, bytes int) *cache {
	return &cache{
		young:      make(map[string][]Statement),
		maxEntries: max(1, entries/2),
		maxBytes:   bytes / 2,
	}
}

func (c *cache) get(text string) ([]Statement, bool) {
	c.mu.RLock()
	facts, ok := c.young[text]
	if ok {
		c.mu.RUnlock()
		return facts, true
	}
	facts, ok = c.old[text]
	c.mu.RUnlock()
	if ok {
		c.put(text, facts)
	}
	return facts, ok
}

// getBytes is get, without a copy of the text where it was asked for lately.
func (c *cache) getBytes(text []byte) ([]Statement, bool) {
	c.mu.RLock()
	facts, ok := c.young[string(text)]
	_, older := c.old[string(text)]
	c.mu.RUnlock()
	if ok || !older {
		return facts, ok
	}
	return c.get(string(text))
}

// put keeps text's facts, unless they would take more than an eighth of a
// generation: one text must not drive out all the others.
func (c *cache) put(text string, facts []Statement) {
	cost := footprint(text, facts)
	if cost > c.maxBytes/8 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.young[text]; ok {
		return
	}
	if len(c.young) >= c.maxEntries || c.bytes+cost > c.maxBytes {
		c.old, c.young, c.bytes = c.young, make(map[string][]Statement), 0
	}
	c.young[text] = facts
	c.bytes += cost
}

// footprint estimates the bytes that an entry holds.
func footprint(text string, facts []Statement) int {
	const perStatement = 1024
	n := 2 * len(text)
	for i := range facts {
		n += perStatement + size(&facts[i])
		if c := facts[i].Copy; c != nil {
			n += perStatement + len(c.Query) + size(c.Facts)
		}
	}
	return n
}

func size(s *Statement) int {
	const perString = 48
	n := 0
	for ; s != nil; s = s.Inner {
		n += perString + len(s.Reach.Creates)
		for _, o := range s.Objects {
			n += perString + len(o.Name)
		}
		m, d := &s.Mentions, &s.Definitions
		for _, names := range [][]string{
			m.Columns, m.Computed, m.Given, m.Fields, m.Operators, m.Weighed, m.Stored, m.Written,
			d.Tables, d.Heirs, d.Schemas,
		} {
			for _, name := range names {
				n += perString + len(name)
			}
		}
		for _, a := range m.Attributes {
			n += perString + len(a.Table) + len(a.Name)
		}
		for i := range m.Outputs {
			n += perString
			for _, name := range m.Outputs[i].Computed {
				n += perString + len(name)
			}
		}
	}
	return n
}
