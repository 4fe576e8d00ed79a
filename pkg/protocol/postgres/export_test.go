package postgres

import (
	"time"

	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
)

// CatalogQuery is what the tests' upstream expects.
const CatalogQuery = catalog.Query

// OpenOwn opens a session of headgate's own.
var OpenOwn = openOwn

// SetClock makes the time by which catalogs age that of a test. No session may run.
func (p *Postgres) SetClock(now func() time.Time) { p.known.now = now }
