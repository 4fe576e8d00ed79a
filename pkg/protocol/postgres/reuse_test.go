package postgres

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/headgate/headgate/pkg/internal/testenv"
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

func TestAStatementThatRunsAgainAllocatesLittle(t *testing.T) {
	if testenv.Race {
		t.Skip("the race detector is on")
	}
	for mode, limit := range map[string]float64{"simple": 11, "extended": 22, "prepared": 19} {
		l := newLoop(t)
		l.program(mode)
		l.turn()
		if got := testing.AllocsPerRun(500, l.turn); got > limit {
			t.Errorf("%s: %v allocations, want at most %v", mode, got, limit)
		}
	}
}
