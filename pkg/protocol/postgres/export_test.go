package postgres

// CatalogQuery is what the tests' upstream expects.
const CatalogQuery = catalogQuery

// OpenOwn opens a session of headgate's own.
var OpenOwn = openOwn
