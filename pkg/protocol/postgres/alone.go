package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgproto3/v2"

	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// loading is one run of the catalog query in the agent's session. upstream fills
// it.
type loading struct {
	flight  *flight
	catalog *catalog.Catalog
	code    string // the SQLSTATE with which it failed
	err     error
	done    chan struct{}
}

// settleAlone loads the catalog in the agent's session, if that is needed and the
// target is idle: never inside a transaction.
func (x *exchange) settleAlone(ctx context.Context) error {
	for range maxLoads {
		l, raw := x.startAlone()
		if l == nil {
			return nil
		}
		if err := x.runAlone(ctx, l, raw); err != nil {
			return err
		}
		if l.code != codeCanceled {
			return l.err
		}
	}
	return fmt.Errorf("load catalog: %w: cancelled", catalog.ErrCatalog)
}

// startAlone returns a load with what has to be sent for it, nil if there is no
// need or it can't be now.
func (x *exchange) startAlone() (*loading, []byte) {
	x.pending.mu.Lock()
	defer x.pending.mu.Unlock()
	if !x.pending.idle {
		return nil, nil
	}
	f := x.entry.fetchAlone()
	if f == nil {
		return nil, nil
	}
	l := &loading{flight: f, catalog: catalog.New(), done: make(chan struct{})}
	x.loading = l
	return l, x.ask()
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

// runAlone sends a load and waits until it was answered.
func (x *exchange) runAlone(ctx context.Context, l *loading, raw []byte) error {
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
	if l != nil {
		x.entry.endAlone(l.flight, l.catalog, l.err)
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
