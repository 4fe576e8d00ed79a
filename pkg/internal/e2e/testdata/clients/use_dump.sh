#!/bin/sh
# Dumps and restores with PostgreSQL's own programs, in each format, and prints the hash of what comes out. What is
# different each time is left out: the key of \restrict.
set -eu
programs=$1 source=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
PATH=$programs:$PATH
stable() { grep -v -E '^\\(un)?restrict '; }
hash() { echo "$1: $(stable | sha256sum)"; }
rows() {
  psql -X -q -A -t -v ON_ERROR_STOP=1 -c "select '$1 items', count(*), md5(string_agg(i::text, ',' order by id)) from items i" \
    -c "select '$1 children', count(*), md5(string_agg(c::text, ',' order by item)) from other.child c" \
    -c "select '$1 parts', count(*), md5(string_agg(p::text, ',' order by id)) from parted p" \
    -c "select '$1 wide', length(body), md5(body) from wide" -c "select '$1 summed', * from summed order by 2" \
    -c "select '$1 objects', l.oid, md5(lo_get(l.oid)) from pg_largeobject_metadata l order by 2" -c "select '$1 sequence', last_value from numbers"
}
psql -X -q -v ON_ERROR_STOP=1 -f "$source" >/dev/null
rows source
pg_dump >"$dir/plain"
hash plain <"$dir/plain"
pg_dump --inserts --rows-per-insert=100 --exclude-table=wide | hash inserts
pg_dump --column-inserts --table=parted --serializable-deferrable | hash columns
pg_dump --schema-only --clean --if-exists --no-owner | hash schema
pg_dump -Fc -f "$dir/custom"
pg_restore -f - "$dir/custom" | hash custom
pg_dump -Fd -j2 -f "$dir/directory"
pg_restore -f - "$dir/directory" | hash directory
pg_dump -Ft -f "$dir/tar"
pg_restore -f - "$dir/tar" | hash tar
clean() { psql -X -q -v ON_ERROR_STOP=1 -c 'drop owned by current_user cascade' -c 'create schema if not exists public' >/dev/null 2>&1; }
again() {
  rows "$1"
  pg_dump | hash "$1, dumped again"
}
clean
psql -X -q -v ON_ERROR_STOP=1 <"$dir/plain" >/dev/null
again plain
pg_restore --clean --if-exists --exit-on-error -d "$PGDATABASE" "$dir/custom"
again custom
clean
pg_restore -j2 --exit-on-error -d "$PGDATABASE" "$dir/directory"
again directory
