package identity

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/headgate/headgate/pkg/process"
)

// ErrBound is returned when a tree acts for somebody else already.
var ErrBound = errors.New("tree is bound to another principal")

// maxTrees bounds a Binder. Nothing is evicted: a tree must not lose its
// principal, or get another, because there are many trees.
const maxTrees = 1 << 16

// Binder remembers on whose behalf each tree acts. The zero Binder is empty and
// ready to use; a nil one knows nobody and binds nobody. It is safe for
// concurrent use.
type Binder struct {
	mu    sync.RWMutex
	trees map[process.ID]Principal
}

// Bind says that the tree with this root acts for p from now on. Binding the
// same principal again changes nothing; another one, or the same subject with
// other groups or claims, is refused with [ErrBound]. The anonymous principal
// cannot be bound. p is copied.
func (b *Binder) Bind(root process.ID, p Principal) error {
	if b == nil || root.IsZero() || p.IsAnonymous() {
		return fmt.Errorf("bind %s to %s: nothing to bind", root, p)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if old, ok := b.trees[root]; ok {
		if !equal(old, p) {
			return fmt.Errorf("bind %s to %s: %w", root, p, ErrBound)
		}
		return nil
	}
	if len(b.trees) >= maxTrees {
		return fmt.Errorf("bind %s to %s: more than %d trees", root, p, maxTrees)
	}
	if b.trees == nil {
		b.trees = make(map[process.ID]Principal)
	}
	p.Groups, p.Claims = slices.Clone(p.Groups), maps.Clone(p.Claims)
	b.trees[root] = p
	return nil
}

// Of returns whom the tree with this root acts for, [Anonymous] if nobody was
// bound. The result shares its groups and claims with others: read only.
func (b *Binder) Of(root process.ID) Principal {
	if b == nil {
		return Anonymous
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.trees[root]
}

// Forget ends a binding. It is to be called when the last process of the tree
// is gone and no session of it is left.
func (b *Binder) Forget(root process.ID) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.trees, root)
}

func equal(a, b Principal) bool {
	return a.Issuer == b.Issuer && a.Subject == b.Subject && slices.Equal(a.Groups, b.Groups) && maps.Equal(a.Claims, b.Claims)
}
