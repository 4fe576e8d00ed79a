#!/bin/sh
# Runs pgbench in each of its modes, with random numbers that are the same each time, and prints what the tables hold.
set -eu
programs=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
PATH=$programs:$PATH
cd "$dir"
held() {
  psql -X -q -A -t -c "select '$1', (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches),
    (select md5(string_agg(tid || ':' || tbalance, ',' order by tid)) from pgbench_tellers),
    (select md5(string_agg(h, ',' order by h)) from (select concat_ws(',', tid, bid, aid, delta) h from pgbench_history) s)"
}
# What pgbench prints, without its measurements.
counted() { grep -E '^(number of transactions|number of failed|transaction type|query mode|pgbench: error)' || true; }
cat >pipeline.sql <<'S'
\set id random(1, 1000)
\startpipeline
begin;
update pgbench_tellers set tbalance = tbalance + :id where tid = :id % 10 + 1;
select tbalance from pgbench_tellers where tid = 1;
insert into pgbench_history (tid, bid, aid, delta) values (1, 1, :id, 1);
end;
select 1;
\endpipeline
S
cat >fetch.sql <<'S'
\set id random(1, 100000)
select aid, abalance from pgbench_accounts where aid = :id \gset
update pgbench_branches set bbalance = bbalance + :abalance;
select :aid as again \aset
S
pgbench -i -q -s 1 >/dev/null 2>&1
held initialised
pgbench -i -I dtGvpf -s 1 >/dev/null 2>&1
held "initialised by the server"
for mode in simple extended prepared; do
  pgbench -n -M $mode -c 4 -j 2 -t 150 --random-seed=7 2>&1 | counted
  held "tpc-b, $mode"
  pgbench -n -M $mode -S -c 4 -j 2 -t 300 --random-seed=7 2>&1 | counted
  [ $mode = simple ] || pgbench -n -M $mode -c 2 -j 2 -t 150 --random-seed=7 -f pipeline.sql 2>&1 | counted
  held "pipelines, $mode"
  pgbench -n -M $mode -c 1 -t 100 --random-seed=7 -f fetch.sql 2>&1 | counted
  held "fetched, $mode"
done
pgbench -n -C -c 4 -j 2 -t 10 -S 2>&1 | counted
