package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/internal/testenv"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// remembered is what names should be, one list for each name, the latest last.
type remembered map[string][]candidate[int]

func (m remembered) edit(name string, keep func(candidate[int]) bool) {
	m[name] = slices.DeleteFunc(slices.Clone(m[name]), func(c candidate[int]) bool { return !keep(c) })
}

// The memory of names that are gone is used again: no name may denote what another
// one did.
func TestNamesDoNotGetTheThingsOfOthers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var n names[int]
		model := remembered{}
		for sequence := uint64(1); sequence < 300; sequence++ {
			name, back := fmt.Sprint(r.IntN(3)), sequence-min(sequence, uint64(r.IntN(12)))
			value := int(sequence)
			switch r.IntN(8) {
			case 0, 1, 2:
				n.add(name, sequence, &value, 0)
				model[name] = append(model[name], candidate[int]{sequence: sequence, value: &value})
			case 3:
				n.suggest(name, sequence, &value, 0)
				model[name] = append(model[name], candidate[int]{sequence: sequence, value: &value, doubtful: true})
			case 4:
				n.confirm(name, back)
				model.edit(name, func(c candidate[int]) bool { return c.sequence >= back })
			case 5:
				n.fail(name, back)
				model.edit(name, func(c candidate[int]) bool { return c.sequence != back })
			case 6:
				n.drop(name, back)
				model.edit(name, func(c candidate[int]) bool { return c.sequence > back })
			default:
				keep := func(v *int) bool { return *v%5 == 0 }
				n.dropAll(back, keep)
				for name := range model {
					model.edit(name, func(c candidate[int]) bool { return c.sequence > back || keep(c.value) })
				}
			}
			total := 0
			for name, list := range model {
				total += len(list)
				var want []*int
				for _, c := range slices.Backward(list) {
					want = append(want, c.value)
					if c.sequence > back && !c.doubtful {
						break
					}
				}
				if got := n.get(name, back); !slices.Equal(got, want) && len(want) <= maxCandidates {
					t.Fatalf("at %d %s denotes %v, want %v", sequence, name, got, want)
				}
			}
			if total != n.total {
				t.Fatalf("at %d the cost is %d, want %d", sequence, n.total, total)
			}
		}
	}
}

// Requests are answered in their order, however many wait.
func TestTheQueueKeepsItsOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	p := newPending()
	var model []*request
	for i := range 20_000 {
		if n := r.IntN(3 * fewRequests); len(model) < n {
			one := &request{kind: askParse, sequence: uint64(i)}
			p.push(one)
			model = append(model, one)
		} else if len(model) > 0 {
			p.pop()
			model = model[1:]
		}
		if !slices.Equal(p.queue, model) {
			t.Fatalf("step %d: %d requests wait, want %d in their order", i, len(p.queue), len(model))
		}
	}
}

// Whoever pushes need not look at the queue each time, and never finds room that is
// not there.
func TestTheQueueIsFullAtItsBound(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	p := newPending()
	for i := range 200_000 {
		full := p.full()
		if want := len(p.queue) >= maxPending; want && !full {
			t.Fatalf("step %d: there is room behind %d requests", i, len(p.queue))
		} else if full && !want {
			t.Fatalf("step %d: there is no room behind %d requests", i, len(p.queue))
		}
		for range 1 + r.IntN(7) {
			if !full {
				p.push(&request{kind: askParse})
			}
		}
		for range r.IntN(7) {
			if len(p.queue) > 0 && (full || i%1000 > 500) {
				p.pop()
			}
		}
	}
}

// A request that is made again knows nothing of what it was.
func TestARequestIsNewEachTime(t *testing.T) {
	q := &requests{}
	for range 100 {
		r, s := q.single(askExecute, nil)
		if diff := cmp.Diff(0, len(r.candidates)+len(s.facts)); diff != "" {
			t.Fatal(diff)
		}
		if r.portal != nil || r.name != "" || r.at != 0 || r.plan != nil || s.op != "" || s.text != nil || s.asked.Text != "" || s.tally.rows != 0 || r.whole.text[0].Text != "" {
			t.Fatal("a request has something of the one before")
		}
		r.portal, r.name, r.at, r.plan = &portal{}, "p", 1, &plan{}
		r.candidates, s.facts = append(r.candidates, r.portal), append(s.facts, &r.whole.text[0])
		s.op, s.text, s.asked.Text, s.tally.rows, r.whole.text[0].Text = "x", s.facts[0], "SELECT 1", 1, "SELECT 1"
		q.put(r)
		one := q.one(askBind)
		if one.name != "" || one.portal != nil {
			t.Fatal("a request has something of the one before")
		}
		one.name, one.portal = "p", &portal{}
		q.put(one)
	}
}

// What others may still know of is left to the collector.
func TestARequestThatOthersKnowIsNotMadeAgain(t *testing.T) {
	for name, set := range map[string]func(*request){
		"ours":     func(r *request) { r.injected = true },
		"for ours": func(r *request) { r.next = &request{} },
		"denied":   func(r *request) { r.denial = &protocol.Denial{} },
		"a COPY":   func(r *request) { r.copy = &copyOut{} },
		"limited": func(r *request) {
			r.steps[0].ruling.Spend = func(_, _ protocol.Volume) *protocol.Denial { return nil }
		},
	} {
		q := &requests{}
		r, s := q.single(askExecute, nil)
		s.op = "x"
		set(r)
		q.put(r)
		if s.op != "x" {
			t.Errorf("%s: it was taken back", name)
		}
	}
}

// Requests are taken back when all were answered, never while one waits.
func TestRequestsAreTakenBackWhenAllWereAnswered(t *testing.T) {
	x := &exchange{postgres: &Postgres{}, pending: newPending()}
	var steps []*step
	for range 3 {
		r, s := x.postgres.requests.single(askExecute, nil)
		s.op = "x"
		steps = append(steps, s)
		x.pending.push(r)
	}
	taken := func() int {
		x.recycle()
		n := 0
		for _, s := range steps {
			if s.op == "" {
				n++
			}
		}
		return n
	}
	for i := range steps {
		if n := taken(); n != 0 {
			t.Fatalf("%d requests were taken back while %d waited", n, len(steps)-i)
		}
		x.pending.pop()
	}
	if n := taken(); n != len(steps) {
		t.Errorf("%d requests of %d were taken back", n, len(steps))
	}
}

func TestNoRowIsRenderedForARecordingWithoutTables(t *testing.T) {
	l := newLoop(t)
	l.program("simple")
	l.x.session.NoTables = true
	if l.turn(); l.x.recording(&tally{}) {
		t.Error("rows are rendered that nobody keeps")
	}
	l.x.session.NoTables = false
	if !l.x.recording(&tally{}) {
		t.Error("rows are not rendered that are to be kept")
	}
}

func TestTheCatalogIsAskedForWhatItDecides(t *testing.T) {
	shared := &exchange{acquaintance: acquaintance{load: func(context.Context) (*catalog.Catalog, error) { return nil, nil }}}
	for typ, want := range map[byte]bool{
		wire.Query: true, wire.Parse: true, wire.Execute: true, wire.FunctionCall: true,
		wire.Bind: false, wire.Describe: false, wire.Sync: false, wire.CopyData: false,
	} {
		if got := shared.consulting(typ); got != want {
			t.Errorf("%s: %t", wire.Name(typ), got)
		}
		if alone := (&exchange{}); !alone.consulting(typ) {
			t.Errorf("%s: a session that loads by itself misses its moment", wire.Name(typ))
		}
	}
}

func TestAStatementThatRunsAgainAllocatesLittle(t *testing.T) {
	if testenv.Race {
		t.Skip("the race detector is on")
	}
	for mode, limit := range map[string]float64{"simple": 4, "extended": 8, "prepared": 6} {
		l := newLoop(t)
		l.program(mode)
		l.turn()
		if got := testing.AllocsPerRun(500, l.turn); got > limit {
			t.Errorf("%s: %v allocations, want at most %v", mode, got, limit)
		}
	}
}
