package bench

// partPath is the path of what is measured without one: the parts by themselves.
const partPath = "parts"

func partOf(name string) string { return "part " + name }

func rowsP8(rs Runs) []Row {
	f := figure{partOf("decision"), partPath, "us"}
	return []Row{
		rs.row(Row{What: "decision, 1,000 rules", Want: "under 5 µs", Unit: "µs"}, f, bound{limit: 5}),
		rs.row(Row{What: "decision, 1,000 rules: allocations", Want: "none", Unit: ""}, figure{f.measure, f.path, "allocs"}, bound{}),
	}
}

func rowsP9(rs Runs) []Row {
	return []Row{
		rs.row(Row{What: "connect(2), not enrolled: what the hooks add", Want: "under 0.3 µs", Unit: "µs"},
			figure{partOf("hooks"), partPath, "outsider_us"}, bound{limit: 0.3}),
		rs.row(Row{What: "connect(2), enrolled: what the hooks add", Want: "under 1.5 µs", Unit: "µs"},
			figure{partOf("hooks"), partPath, "enrolled_us"}, bound{limit: 1.5}),
	}
}

func rowsP10(rs Runs) []Row {
	m := partOf("facts")
	return []Row{
		rs.row(Row{What: "facts of a statement, from the cache", Want: "under 0.5 µs", Unit: "µs"}, figure{m, partPath, "hit_us"}, bound{limit: 0.5}),
		rs.row(Row{What: "facts of a statement, other literals", Want: "under 3 µs", Unit: "µs",
			Reason: "there is no normaliser: other literals are a miss"}, figure{m, partPath, "normalised_us"}, bound{limit: 3}),
		rs.row(Row{What: "facts of a statement, not seen before", Want: "under 120 µs", Unit: "µs"}, figure{m, partPath, "miss_us"}, bound{limit: 120}),
	}
}

func rowsP11(rs Runs) []Row {
	return []Row{rs.row(Row{What: "audit with fsync, 64 at the same time: operations per sync", Want: "at least 20", Unit: ""},
		figure{partOf("audit"), partPath, "ops_per_sync"}, bound{20, true})}
}
