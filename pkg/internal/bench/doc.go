// Package bench measures what the gate costs, beside what other proxies cost in
// the same run: design/performance.md's targets, as make bench prints them.
//
// A supervisor makes a cgroup and a network namespace, and everything else runs
// inside: a database, the peers (pgbouncer, haproxy), a daemon, and clients that
// come by one [Path] after the other, in rounds. What was measured is kept as
// [Run], one per path and round; rows of the table are made of those. No figure
// makes a run fail. A path on which something does not work does.
//
// What counts is the processor time of a proxy per unit of work, from the
// scheduler's own exact account, and ratios between paths of one round. How much
// of the machine others used meanwhile stands beside each figure.
package bench
