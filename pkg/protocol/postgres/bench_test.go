package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/headgate/headgate/pkg/mask"
)

// BenchmarkBulk reads rows in which nothing is to be masked, through the
// mediator and directly: driver and server are part of both figures.
func BenchmarkBulk(b *testing.B) {
	const sql = "select g, repeat('lorem ipsum ', 8) from generate_series(1, 100000) g"
	rules := map[string][]mask.Rule{
		"no masks":  nil,
		"detectors": {{Name: "d", Detect: []string{"pan", "email", "ssn"}, With: "redact"}},
	}
	read := func(b *testing.B, addr string) {
		ctx := b.Context()
		conn, err := pgx.Connect(ctx, dsn(addr, "agent", "agent-password"))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close(ctx)
		for b.Loop() {
			r := conn.PgConn().Exec(ctx, sql)
			n := 0
			for r.NextResult() {
				for r.ResultReader().NextRow() {
					for _, v := range r.ResultReader().Values() {
						n += len(v)
					}
				}
			}
			if err := r.Close(); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(n))
		}
	}
	b.Run("direct", func(b *testing.B) { read(b, need(b)) })
	for name, list := range rules {
		b.Run(name, func(b *testing.B) {
			g := newGate(b, func(g *gate) { g.masks = mustMask(b, list...) })
			read(b, g.addr)
		})
	}
}

// BenchmarkSmall runs a small statement, as above.
func BenchmarkSmall(b *testing.B) {
	read := func(b *testing.B, addr string, mode pgx.QueryExecMode) {
		ctx := b.Context()
		conn, err := pgx.Connect(ctx, dsn(addr, "agent", "agent-password"))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close(ctx)
		for b.Loop() {
			if _, err := conn.Exec(ctx, "select name from customers where id = 1", mode); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, mode := range []string{"simple", "cached"} {
		b.Run("direct "+mode, func(b *testing.B) { read(b, need(b), modes[mode]) })
		b.Run(mode, func(b *testing.B) { read(b, newGate(b, nil).addr, modes[mode]) })
		b.Run("masked "+mode, func(b *testing.B) {
			g := newGate(b, func(g *gate) { g.masks = mustMask(b, ssnRule()) })
			read(b, g.addr, modes[mode])
		})
	}
}

// BenchmarkBatch sends a batch of one statement many times, each with a Parse of
// its own, without a Sync in between.
func BenchmarkBatch(b *testing.B) {
	const size = 20_000
	run := func(b *testing.B, addr string) {
		ctx := b.Context()
		conn, err := pgx.Connect(ctx, dsn(addr, "agent", "agent-password"))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close(ctx)
		for b.Loop() {
			batch := &pgconn.Batch{}
			for range size {
				batch.ExecParams("select $1::text", [][]byte{[]byte("x")}, nil, nil, nil)
			}
			if _, err := conn.PgConn().ExecBatch(ctx, batch).ReadAll(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/statement")
	}
	b.Run("direct", func(b *testing.B) { run(b, need(b)) })
	b.Run("plain", func(b *testing.B) { run(b, newGate(b, nil).addr) })
	b.Run("masked", func(b *testing.B) {
		run(b, newGate(b, func(g *gate) { g.masks = mustMask(b, ssnRule()) }).addr)
	})
}
