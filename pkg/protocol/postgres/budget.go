package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// freeSize is up to where a message needs nothing of the budget, in bytes.
	freeSize = 1 << 20
	// budgetPatience bounds how long a message waits for its share.
	budgetPatience = 10 * time.Second
	// messagePatience bounds how long it may take to arrive and to be passed on.
	messagePatience = 60 * time.Second
)

var (
	// errNoMemory means that other messages hold the budget.
	errNoMemory = errors.New("no memory for a large message")
	// errSlowMessage means that a large message did not come to an end in time.
	errSlowMessage = errors.New("large message took too long")
)

// budget is the memory that the large messages of all sessions share: each one
// is bounded, but not how many there are. Safe for concurrent use.
type budget struct {
	total int64
	free  *semaphore.Weighted
}

func newBudget(total int) *budget {
	return &budget{total: int64(total), free: semaphore.NewWeighted(int64(total))}
}

// take waits for size bytes, but not long; who asks for more than there is gets
// all. It calls late once if the lease is held for too long.
func (b *budget) take(ctx context.Context, size int, late func()) (*lease, error) {
	if size <= freeSize {
		return nil, nil
	}
	share := min(int64(size), b.total)
	waiting, cancel := context.WithTimeoutCause(ctx, budgetPatience, errNoMemory)
	defer cancel()
	if err := b.free.Acquire(waiting, share); err != nil {
		return nil, fmt.Errorf("take %d bytes: %w", size, context.Cause(waiting))
	}
	return &lease{budget: b, size: share, clock: time.AfterFunc(messagePatience, late)}, nil
}

// lease is what one message holds of the budget. A nil lease holds nothing. It
// belongs to one goroutine.
type lease struct {
	budget *budget
	size   int64
	clock  *time.Timer
}

// pause stops the clock while somebody decides, which has bounds of its own.
func (l *lease) pause() {
	if l != nil {
		l.clock.Stop()
	}
}

// resume starts the clock again.
func (l *lease) resume() {
	if l != nil {
		l.clock.Reset(messagePatience)
	}
}

// giveBack ends the lease. Nothing may refer to the message any more.
func (l *lease) giveBack() {
	if l != nil {
		l.clock.Stop()
		l.budget.free.Release(l.size)
	}
}
