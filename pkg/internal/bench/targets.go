package bench

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// The verdicts. A row that is there to compare with has none.
const (
	met         = "met"
	missed      = "missed"
	notMeasured = "not measured"
)

// Row is a line of the table.
type Row struct {
	Target string `json:"target"`
	What   string `json:"what"`
	Want   string `json:"want"`
	Unit   string `json:"unit"`
	Value  Series `json:"value"`
	// Peer is whose value of the same run the value is compared with.
	Peer      string `json:"peer,omitempty"`
	PeerValue Series `json:"peer_value"`
	// Ratio is the value's to the peer's, in each round.
	Ratio   Series `json:"ratio"`
	Verdict string `json:"verdict"`
	// Reason is why there is no figure, or what to know about it.
	Reason string `json:"reason,omitempty"`
	// Others is the most that others used of the machine during one of the runs
	// that the value is from, in processors.
	Others float64 `json:"others"`
}

// target is one of the design's, with the rows that show where it stands.
type target struct {
	name string
	rows func(Runs) []Row
}

func targets() []target {
	return []target{
		{"P1", rowsP1}, {"P2", rowsP2}, {"P3", rowsP3}, {"P4", rowsP4},
		{"P5", rowsP5}, {"P6", rowsP6}, {"P7", rowsP7}, {"P8", rowsP8},
		{"P9", rowsP9}, {"P10", rowsP10}, {"P11", rowsP11}, {"P12", rowsP12},
		{growthSessions, rowsGrowthSessions}, {growthRules, rowsGrowthRules}, {growthRows, rowsGrowthRows},
	}
}

// bound judges a series' median.
type bound struct {
	limit float64
	least bool // the limit is the least that is wanted, not the most
}

func (w bound) verdict(s Series) string {
	switch {
	case s.N == 0:
		return notMeasured
	case w.least && s.Median >= w.limit, !w.least && s.Median <= w.limit:
		return met
	}
	return missed
}

// figure is what a row is made of.
type figure struct {
	measure, path, value string
}

func (rs Runs) row(r Row, f figure, w bound) Row {
	r.Value, r.Others = rs.Series(f.measure, f.path, f.value), rs.others(f.measure, f.path)
	r.Verdict = w.verdict(r.Value)
	return r
}

// versus is a row whose ratio to a peer counts.
func (rs Runs) versus(r Row, f figure, w bound) Row {
	r.Value, r.PeerValue = rs.Series(f.measure, f.path, f.value), rs.Series(f.measure, r.Peer, f.value)
	r.Ratio = rs.Combine(f.measure, f.value, [2]string{f.path, r.Peer}, ratio)
	r.Others = max(rs.others(f.measure, f.path), rs.others(f.measure, r.Peer))
	r.Verdict = w.verdict(r.Ratio)
	return r
}

// above is a row for what a path's value is above that of a peer.
func (rs Runs) above(r Row, f figure, w bound) Row {
	r.Value = rs.Combine(f.measure, f.value, [2]string{f.path, r.Peer}, difference)
	r.PeerValue = rs.Series(f.measure, r.Peer, f.value)
	r.Others = max(rs.others(f.measure, f.path), rs.others(f.measure, r.Peer))
	r.Verdict = w.verdict(r.Value)
	return r
}

// others returns the most that others used during one of the runs, or what is
// negative where that is not known.
func (rs Runs) others(measure, path string) float64 {
	most := float64(unknown)
	for _, r := range rs {
		if r.Measure == measure && r.Path == path {
			most = max(most, r.Others)
		}
	}
	return most
}

func rowsP1(rs Runs) []Row {
	var list []Row
	for _, mode := range modes {
		f := figure{"pgbench " + mode, gate, "cpu_us"}
		list = append(list, rs.versus(Row{
			What: "processor of the proxy per query, " + mode, Want: "at most 1.25 x pgbouncer", Unit: "µs", Peer: pgbouncer,
		}, f, bound{limit: 1.25}))
	}
	for _, mode := range modes {
		f := figure{"pgbench " + mode, gate, "cpu_us"}
		list = append(list, rs.above(Row{
			What: "of that, what a bare relay does not do, " + mode, Want: "at most 2 µs", Unit: "µs", Peer: gateRelay,
			Reason: "parsing and forwarding messages are in it, too",
		}, f, bound{limit: 2}))
	}
	return append(list, rs.row(Row{What: "allocations per row of a result", Want: "none", Unit: ""},
		figure{partRows, partPath, "allocs_per_row"}, bound{limit: 0.01}))
}

func rowsP2(rs Runs) []Row {
	var list []Row
	for _, mode := range modes {
		list = append(list, rs.versus(Row{
			What: "queries per second, " + mode, Want: "at least 0.95 x pgbouncer", Unit: "/s", Peer: pgbouncer,
		}, figure{"pgbench " + mode, gate, "tps"}, bound{limit: 0.95, least: true}))
	}
	return list
}

func rowsP3(rs Runs) []Row {
	const unit = "MB/s per core"
	return []Row{
		rs.row(Row{What: "result, masks and detectors, nothing matches", Want: "at least 600", Unit: unit},
			figure{"bulk plain", gate, "mb_per_core_s"}, bound{600, true}),
		rs.row(Row{What: "result, no masks", Want: "at least 950", Unit: unit},
			figure{"bulk plain", gatePlain, "mb_per_core_s"}, bound{950, true}),
	}
}

func rowsP4(rs Runs) []Row {
	return []Row{rs.row(Row{What: "result, a masked column and a detector's hit per row", Want: "at least 400", Unit: "MB/s per core"},
		figure{"bulk people", gate, "mb_per_core_s"}, bound{400, true})}
}

func rowsP5(rs Runs) []Row {
	f := figure{measureStreams, gate, "kib_per_session"}
	return []Row{
		rs.row(Row{What: fmt.Sprintf("memory of a session while it streams, above idle, %d at once", streams), Want: "under 256 KiB", Unit: "KiB"}, f, bound{limit: 256}),
		rs.row(Row{What: "the same, a result ten times as long: more by", Want: "constant: under 256 KiB", Unit: "KiB"},
			figure{f.measure, f.path, "kib_more_when_longer"}, bound{limit: 256}),
	}
}

func rowsP6(rs Runs) []Row {
	echo := figure{measureEcho, gateRelay, "p50_us"}
	cpu := figure{measureEcho, gateRelay, "cpu_us"}
	login := figure{measureLogin, gate, "p50_us"}
	return []Row{
		rs.above(Row{What: "new connection and one byte back, added to direct", Want: "median at most 150 µs", Unit: "µs", Peer: direct}, echo, bound{limit: 150}),
		rs.versus(Row{What: "processor of the proxy per connection", Want: "at most 2 x haproxy", Unit: "µs", Peer: haproxy}, cpu, bound{limit: 2}),
		noVerdict(rs.above(Row{What: "new session with its log-in, added to direct", Unit: "µs", Peer: direct}, login, bound{})),
	}
}

// noVerdict is for rows that no target is about.
func noVerdict(r Row) Row {
	r.Verdict = ""
	if r.Value.N == 0 {
		r.Verdict = notMeasured
	}
	return r
}

func rowsP7(rs Runs) []Row {
	return []Row{
		rs.row(Row{What: "memory of an idle session", Want: "under 24 KiB", Unit: "KiB"}, figure{measureIdle, gate, "kib_per_session"}, bound{limit: 24}),
		rs.row(Row{What: "resident with 10,000 idle sessions", Want: "under 300 MiB", Unit: "MiB",
			Reason: "run with IDLE=10000"}, figure{measureIdle, gate, "mib_with_10000"}, bound{limit: 300}),
	}
}

func rowsP12(rs Runs) []Row {
	return []Row{
		rs.row(Row{What: "daemon at rest, demo's policy: of a processor", Want: "under 0.1 %", Unit: "%"}, figure{measureRest, gate, "cpu_percent"}, bound{limit: 0.1}),
		rs.row(Row{What: "daemon at rest: resident", Want: "under 120 MiB", Unit: "MiB"}, figure{measureRest, gate, "rss_mib"}, bound{limit: 120}),
	}
}

// table returns the rows of what was wanted.
func (b *bench) table() []Row {
	var list []Row
	for _, t := range targets() {
		for _, r := range t.rows(b.runs) {
			r.Target = t.name
			switch {
			case r.Verdict != notMeasured:
			case !b.o.wants(t.name):
				r.Reason = "not asked for"
			case b.missing[t.name] != "":
				r.Reason = b.missing[t.name]
			}
			if r.Verdict != notMeasured || b.o.wants(t.name) {
				list = append(list, r)
			}
		}
	}
	return list
}

// figures returns what there are values of: measures in the order in which they
// were made, and the paths of each in theirs.
func (rs Runs) figures() []figure {
	var list []figure
	place := map[string]int{}
	for i, r := range rs {
		if _, ok := place[r.Measure]; !ok {
			place[r.Measure] = i
		}
		for _, value := range slices.Sorted(maps.Keys(r.Values)) {
			if f := (figure{r.Measure, r.Path, value}); !slices.Contains(list, f) {
				list = append(list, f)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b figure) int {
		return cmp.Or(
			cmp.Compare(place[a.measure], place[b.measure]),
			cmp.Compare(slices.Index(pathNames(), a.path), slices.Index(pathNames(), b.path)),
			cmp.Compare(a.value, b.value))
	})
	return list
}
