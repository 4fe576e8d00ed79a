package bench

import (
	"context"
	"fmt"
)

// read is a way to read a table, and what must come out of it.
type read struct {
	table string
	path  path
	talk  *talk
}

// bulk measures results of a million rows.
func (b *bench) bulk(ctx context.Context) (err error) {
	place := b.database5432()
	reads := map[string]*read{}
	var ways []path
	for table, names := range map[string][]string{
		"plain":  {direct, pgbouncer, haproxy, gateRelay, gatePlain, gate},
		"people": {direct, gateRelay, gate},
	} {
		for _, p := range b.paths(place, names...) {
			t, err := b.talkTo(ctx, p, "sessions", "1")
			if err != nil {
				return err
			}
			r := &read{table, p, t}
			p.name = table + "/" + p.name // rounds take them all together
			reads[p.name] = r
			ways = append(ways, p)
			if err := r.works(); err != nil {
				return err
			}
		}
	}
	err = b.rounds(ctx, ways, func(round int, p path) error { return b.bulkOnce(round, reads[p.name]) })
	if err != nil {
		return err
	}
	for _, r := range reads {
		if err := r.talk.end(); err != nil {
			return err
		}
	}
	return nil
}

// works reads a little, and finds out whether it is masked where it has to be.
func (r *read) works() error {
	a, err := r.talk.ask(fmt.Sprintf("select * from %s limit 10000", r.table))
	if err != nil {
		return fmt.Errorf("%s: %w", r.path.name, err)
	}
	wantSeen := r.table == "people" && r.path.name != gate
	if a.Rows != 10000 || (a.Seen > 0) != wantSeen {
		return fmt.Errorf("%s: of %s came %d rows, %d pieces not masked", r.path.name, r.table, a.Rows, a.Seen)
	}
	return nil
}

func (b *bench) bulkOnce(round int, r *read) error {
	w, err := b.stopwatch(r.path)
	if err != nil {
		return err
	}
	var a answer
	for a.Seconds < b.o.Time.Seconds() {
		once, err := r.talk.ask("select * from " + r.table)
		if err != nil {
			return err
		}
		if once.Rows != rows {
			return fmt.Errorf("of %s came %d rows, not %d", r.table, once.Rows, rows)
		}
		a.Seconds, a.Bytes = a.Seconds+once.Seconds, a.Bytes+once.Bytes
	}
	used, err := w.stop()
	if err != nil {
		return err
	}
	megabytes := float64(a.Bytes) / 1e6
	values := map[string]float64{"mb_per_s": megabytes / a.Seconds, "server_ms_per_mb": used.server.Seconds() * 1e3 / megabytes}
	if r.path.proxy != nil {
		values["mb_per_core_s"] = megabytes / used.proxy.Seconds()
		values["cpu_ms_per_mb"] = used.proxy.Seconds() * 1e3 / megabytes
	}
	b.keep(Run{"bulk " + r.table, r.path.name, round, values, used.others})
	b.say("bulk %-6s round %d  %-18s %5.0f MB/s  %5.0f MB/s per core of proxy  others %.2f",
		r.table, round, r.path.name, values["mb_per_s"], values["mb_per_core_s"], used.others)
	return nil
}
