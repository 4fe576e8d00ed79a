package main

import "fmt"

// ledger compares what the kernel side handed over with what arrived: a
// connection that was redirected and is in no session would be one that nobody
// accounts for.
type ledger struct {
	d *daemon
	// Of earlier daemons: the kernel's counters outlive them.
	handed, lostBefore uint64
	opened             bool
}

// open begins a ledger. What waits in the queues already is still to arrive.
func (l *ledger) open() error {
	waiting, err := l.d.proxies.waiting()
	if err != nil {
		return err
	}
	counters, err := l.d.kernel.Counters()
	if err != nil {
		return err
	}
	l.handed = counters["handed_over"] - min(waiting, counters["handed_over"])
	inflight, err := l.d.kernel.Inflight()
	if err != nil {
		return err
	}
	l.lostBefore = l.lost(counters, uint64(inflight))
	l.opened = true
	return nil
}

// lost are connections that were published to the proxy, and then neither handed
// over nor withdrawn.
func (l *ledger) lost(counters map[string]uint64, inflight uint64) uint64 {
	published := counters["published"]
	known := counters["handed_over"] + counters["withdrawn"] + counters["handover_failed"] + inflight
	return published - min(known, published)
}

// samples is how often unaccounted looks: figures that move while they are read
// may not agree for a moment, what is missing is missing every time.
const samples = 5

// unaccounted returns how many connections nobody accounts for. While
// connections arrive the figure may be too small for a moment, never too large
// for long.
func (l *ledger) unaccounted() (uint64, error) {
	var least uint64
	for i := range samples {
		n, err := l.sample()
		if err != nil {
			return 0, err
		}
		if i == 0 || n < least {
			least = n
		}
		if least == 0 {
			break
		}
	}
	return least, nil
}

func (l *ledger) sample() (uint64, error) {
	counters, err := l.d.kernel.Counters()
	if err != nil {
		return 0, err
	}
	inflight, err := l.d.kernel.Inflight()
	if err != nil {
		return 0, err
	}
	waiting, err := l.d.proxies.waiting()
	if err != nil {
		return 0, fmt.Errorf("count waiting connections: %w", err)
	}
	// Read last: what leaves the queue meanwhile is counted twice, not never.
	arrived := waiting + l.d.proxies.accepted.Load()
	handed := counters["handed_over"] - l.handed
	missing := handed - min(arrived, handed)
	lost := l.lost(counters, uint64(inflight))
	return missing + lost - min(lost, l.lostBefore) + l.d.gateway.Unrecorded(), nil
}
