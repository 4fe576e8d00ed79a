package postgres

// CatalogQuery is what the tests' upstream expects.
const CatalogQuery = catalogQuery
