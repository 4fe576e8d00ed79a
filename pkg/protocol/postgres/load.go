package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/jackc/pgproto3/v2"

	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
	"github.com/headgate/headgate/pkg/protocol/postgres/login"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// loadStatements are what a load runs: it changes nothing, waits for nobody's lock
// for long and ends by itself, should nobody read what it says. To compile a query
// that has many parts takes several times as long as it.
const loadStatements = "BEGIN READ ONLY; SET LOCAL jit = off; SET LOCAL statement_timeout = 10000; SET LOCAL lock_timeout = 2000; " + catalog.Query + "; COMMIT"

// maxCatalogMessage bounds one message of a target while a catalog is loaded.
const maxCatalogMessage = 64 << 10

func catalogLimits(typ byte) (limit int, known bool) {
	_, known = targetLimits(typ)
	return maxCatalogMessage, known
}

// ownLoader returns what loads the catalog of a database on connections of our
// own, with what the session has: its way to the target and its credential.
func ownLoader(s *protocol.Session, database string) loader {
	return func(ctx context.Context) (*catalog.Catalog, error) {
		own, err := openOwn(ctx, s, database,
			wire.Parameter{Name: "client_encoding", Value: "UTF8"}, wire.Parameter{Name: "application_name", Value: "headgate"})
		if err != nil {
			return nil, err
		}
		defer context.AfterFunc(ctx, func() { expire(own.Conn) })()
		own.Reader.SetLimits(catalogLimits)
		c, err := readCatalog(own.Conn, own.Reader)
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		if closeErr := own.Close(); closeErr != nil && !errors.Is(closeErr, net.ErrClosed) {
			s.Log.Debug().Err(closeErr).Msg("connection was gone before it was closed")
		}
		return c, err
	}
}

// readCatalog asks for the catalog and reads the answer.
func readCatalog(conn net.Conn, from *wire.Reader) (*catalog.Catalog, error) {
	if _, err := conn.Write(encode(nil, &pgproto3.Query{String: loadStatements})); err != nil {
		return nil, fmt.Errorf("send query: %w", err)
	}
	c, described := catalog.New(), false
	for {
		typ, length, err := from.Next()
		if err != nil {
			return nil, fmt.Errorf("read catalog: %w", err)
		}
		raw, err := from.Raw(length)
		if err != nil {
			return nil, fmt.Errorf("read catalog: %w", err)
		}
		switch typ {
		case wire.RowDescription:
			described = true
		case wire.DataRow:
			err = c.Add(raw[5:])
		case wire.ErrorResponse:
			return nil, fmt.Errorf("read catalog: refused with %s", login.SQLState(raw[5:]))
		case wire.CommandComplete, wire.NoticeResponse, wire.ParameterStatus, wire.NotificationResponse:
		case wire.ReadyForQuery:
			if !described {
				return nil, fmt.Errorf("read catalog: %w: no answer to the query", wire.ErrMalformed)
			}
			return c, nil
		default:
			err = fmt.Errorf("%w: unexpected type %s", wire.ErrMalformed, wire.Name(typ))
		}
		if err != nil {
			return nil, fmt.Errorf("read catalog: %w", err)
		}
	}
}
