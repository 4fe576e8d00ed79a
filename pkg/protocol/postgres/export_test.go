package postgres

import "github.com/headgate/headgate/pkg/protocol/postgres/catalog"

// CatalogQuery is what the tests' upstream expects.
const CatalogQuery = catalog.Query

// OpenOwn opens a session of headgate's own.
var OpenOwn = openOwn
