package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgproto3/v2"

	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// loading is one run of the catalog query. upstream fills it.
type loading struct {
	catalog *catalog.Catalog
	code    string // the SQLSTATE with which it failed
	err     error
	done    chan struct{}
}

// maxLoads bounds how often the query is repeated: the agent can cancel it.
const maxLoads = 3

// begin lets the agent in, once it is known what has to be masked.
func (x *exchange) begin(ctx context.Context) error {
	if err := x.settle(ctx); err != nil {
		return err
	}
	return x.admit()
}

// admit sends the first ReadyForQuery, if that has not been done.
func (x *exchange) admit() error {
	x.pending.mu.Lock()
	held := x.held
	x.held = nil
	x.pending.mu.Unlock()
	if held == nil {
		return nil
	}
	if !x.clock.Stop() {
		return errSlowStart
	}
	if err := x.tell(held); err != nil {
		return err
	}
	if err := x.toAgent.Flush(); err != nil {
		return fromDownstream(fmt.Errorf("write message: %w", err))
	}
	return nil
}

// settle brings the catalog up to date before the agent's next message, if that
// is needed and the target is idle: never inside a transaction.
func (x *exchange) settle(ctx context.Context) error {
	if !x.masks().HasColumns() {
		return nil
	}
	for range maxLoads {
		x.pending.mu.Lock()
		missing := x.stale || x.relations == nil
		if !missing || !x.pending.idle {
			x.pending.mu.Unlock()
			return nil
		}
		l := &loading{catalog: catalog.New(), done: make(chan struct{})}
		x.loading = l
		raw := x.ask()
		x.pending.mu.Unlock()
		if err := x.load(ctx, l, raw); err != nil {
			return err
		}
		if l.code != codeCanceled {
			return l.err
		}
	}
	return fmt.Errorf("load catalog: %w: cancelled", catalog.ErrCatalog)
}

// ask queues the messages of a catalog query and returns them. They are of the
// extended protocol and have names: a Query would destroy the agent's unnamed
// statement. pending.mu is held.
func (x *exchange) ask() []byte {
	name := poisonName(x.postgres.options.Token())
	for _, k := range []kind{askParse, askBind, askExecute, askClose, askClose, askSync} {
		r := &request{kind: k, injected: true, name: name, sequence: x.pending.take()}
		x.pending.push(r)
	}
	raw := encode(nil, &pgproto3.Parse{Name: name, Query: catalog.Query})
	raw = encode(raw, &pgproto3.Bind{DestinationPortal: name, PreparedStatement: name})
	raw = encode(raw, &pgproto3.Execute{Portal: name})
	raw = encode(raw, &pgproto3.Close{ObjectType: 'P', Name: name})
	raw = encode(raw, &pgproto3.Close{ObjectType: 'S', Name: name})
	return encode(raw, &pgproto3.Sync{})
}

func (x *exchange) load(ctx context.Context, l *loading, raw []byte) error {
	if err := x.send(raw); err != nil {
		return err
	}
	if err := x.toTarget.Flush(); err != nil {
		return fromUpstream(fmt.Errorf("write messages: %w", err))
	}
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// catalogRow takes one row of the catalog query.
func (x *exchange) catalogRow(length int) error {
	raw, err := x.fromTarget.Raw(min(length, mediumMessage))
	if err != nil {
		return fromUpstream(err)
	}
	x.pending.mu.Lock()
	l := x.loading
	x.pending.mu.Unlock()
	if l == nil {
		return fromUpstream(errDesync)
	}
	if l.err == nil {
		l.err = l.catalog.Add(raw[5:])
	}
	return nil
}

// loadFailed notes that the target refused the catalog query. pending.mu is held.
func (x *exchange) loadFailed(fields []wire.Field) {
	if x.loading == nil {
		return
	}
	x.loading.code = string(wire.Get(fields, 'C'))
	x.loading.err = fmt.Errorf("load catalog: %w: %s", catalog.ErrCatalog, x.loading.code)
}

// loaded ends a catalog query: its Sync was answered. After the first one the
// agent is let in here, in front of whatever the target says next.
func (x *exchange) loaded() error {
	x.pending.mu.Lock()
	l := x.loading
	x.loading = nil
	if l != nil && l.err == nil {
		x.relations, x.stale = l.catalog, false
	}
	x.pending.mu.Unlock()
	if l == nil {
		return nil
	}
	defer close(l.done)
	if l.err != nil {
		return nil // downstream decides what that means
	}
	return x.admit()
}
