package bypass

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/headgate/headgate/pkg/internal/testenv"
)

// place is where the attacks of a test go: through a gate, or past it.
type place struct {
	lab  *lab
	addr string
	gate *gate // nil where there is none
}

// finding is what an attack achieved.
type finding struct {
	leaks   []string
	effects []string
	heard   *heard
	script  string
	broken  error // the case could not be run
}

// TestNoAttackGetsAroundThePolicy runs every case through the gate.
func TestNoAttackGetsAroundThePolicy(t *testing.T) {
	l, top := need(t), t
	gates := map[string]*gate{}
	attacks, open := selected(t), 0
	for _, a := range attacks {
		t.Run(a.class+"/"+a.Name, func(t *testing.T) {
			g := gates[a.Policy+a.Masks]
			if g == nil {
				engine, err := compile(t, l.server.Addr(), a.Policy, a.Masks)
				if err != nil {
					t.Fatal(err)
				}
				g = newGate(top, l.server.Addr(), engine)
				gates[a.Policy+a.Masks] = g
			}
			failures := a.defended(t, &place{l, g.addr, g})
			if a.Documented == "" {
				for _, f := range failures {
					t.Error(f)
				}
				return
			}
			open++
			t.Logf("not covered: %s", a.Documented)
			if len(failures) == 0 {
				t.Error("is covered now: take the word out of the case, and out of the documentation")
			}
		})
	}
	t.Logf("%d cases, %d of them documented as not covered", len(attacks), open)
}

// TestTheAttacksWorkWithoutTheGate runs every case past the gate: what fails
// there too proves nothing about it.
func TestTheAttacksWorkWithoutTheGate(t *testing.T) {
	if os.Getenv("HEADGATE_TESTS") != "all" && os.Getenv("HEADGATE_BYPASS") == "" {
		testenv.Skip(t, "takes minutes; runs with HEADGATE_TESTS=all, and where HEADGATE_BYPASS selects cases")
	}
	l := need(t)
	for _, a := range selected(t) {
		if a.Harmless || a.WorksWithoutGate != nil {
			continue
		}
		t.Run(a.class+"/"+a.Name, func(t *testing.T) {
			f := a.attempt(t, &place{lab: l, addr: l.server.Addr()}, a.modes()[0], 0)
			achieved := len(f.leaks) > 0 || len(f.effects) > 0 && a.Effect == ""
			for _, text := range f.heard.texts {
				achieved = achieved || slices.ContainsFunc(a.Never, func(s string) bool { return strings.Contains(text, s) })
			}
			if a.Twin {
				other := a.attempt(t, &place{lab: l, addr: l.server.Addr()}, a.modes()[0], 1)
				achieved = achieved || f.script != other.script
			}
			if f.broken != nil {
				t.Error(f.broken)
			}
			if !achieved {
				t.Errorf("it achieves nothing: %q", f.heard.codes)
				a.print(t, f)
			}
		})
	}
}

// selected are the cases to run: all, or those of one class or name.
func selected(tb testing.TB) []*attack {
	tb.Helper()
	all := attacks(tb)
	only := os.Getenv("HEADGATE_BYPASS")
	return slices.DeleteFunc(all, func(a *attack) bool {
		return !slices.ContainsFunc(strings.Split(only, ","), func(s string) bool { return strings.Contains(a.class+"/"+a.Name, s) })
	})
}

// defended runs a case in all its modes, and returns what is wrong.
func (a *attack) defended(tb testing.TB, p *place) []string {
	var failures []string
	for i, mode := range a.modes() {
		f := a.attempt(tb, p, mode, 0)
		failures = append(failures, a.judge(f, mode, i == 0)...)
		if a.Twin {
			other := a.attempt(tb, p, mode, 1)
			if f.script != other.script {
				failures = append(failures, fmt.Sprintf("%s: the answers depend on protected values:\n%s\n%s", mode, f.script, other.script))
			}
		}
		if len(failures) > 0 || os.Getenv("HEADGATE_BYPASS_PRINT") != "" {
			a.print(tb, f)
		}
	}
	return failures
}

func (a *attack) judge(f *finding, mode string, first bool) []string {
	var failures []string
	fail := func(format string, args ...any) { failures = append(failures, mode+": "+fmt.Sprintf(format, args...)) }
	if f.broken != nil {
		fail("the case can't be run: %v", f.broken)
	}
	for _, leak := range f.leaks {
		fail("the agent received %s", leak)
	}
	if a.Effect == "" {
		for _, effect := range f.effects {
			fail("%s", effect)
		}
	}
	for _, text := range a.Never {
		for _, heard := range f.heard.texts {
			if strings.Contains(heard, text) {
				fail("the agent received %q", text)
				break
			}
		}
	}
	if !first {
		return failures
	}
	for _, text := range a.Shows {
		if !slices.ContainsFunc(f.heard.texts, func(heard string) bool { return strings.Contains(heard, text) }) {
			fail("the agent did not receive %q", text)
		}
	}
	code := "none"
	if n := len(f.heard.codes); n > 0 {
		code = f.heard.codes[n-1]
	}
	if a.Code != "" && a.Code != code {
		fail("the last error is %s, want %s", code, a.Code)
	}
	return failures
}

// print shows what the agent heard.
func (a *attack) print(tb testing.TB, f *finding) {
	tb.Helper()
	script := f.script
	if len(script) > 6000 {
		script = script[:6000] + "…"
	}
	tb.Logf("codes %q, effects %q\n%s", f.heard.codes, f.effects, script)
}

// run is one run of a case.
type run struct {
	place  *place
	site   *site
	mode   string
	agents map[string]*agent
	order  []*agent
}

// attempt runs a case once.
func (a *attack) attempt(tb testing.TB, p *place, mode string, twin int) *finding {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	f := &finding{heard: &heard{}}
	r := &run{place: p, mode: mode, agents: map[string]*agent{}}
	funcs := r.funcs()
	var err error
	r.site, err = p.lab.enter(ctx, twin, func(s *site) (string, error) {
		r.site = s
		return fill(a.Setup, funcs)
	})
	if err != nil {
		f.broken = err
		if r.site != nil {
			f.broken = errors.Join(err, p.lab.demolish(ctx, r.site))
		}
		return f
	}
	if p.gate != nil {
		p.gate.forget()
	}
	err = a.perform(ctx, r, funcs)
	for _, agent := range r.order {
		agent.end()
	}
	f.heard, f.script = listen(r.order), transcript(r.order)
	for _, text := range f.heard.texts {
		f.leaks = append(f.leaks, p.lab.forms[twin].find(text)...)
	}
	slices.Sort(f.leaks)
	f.leaks = slices.Compact(f.leaks)
	effects, left := p.lab.leave(ctx, r.site)
	f.effects, f.broken = effects, errors.Join(err, left)
	return f
}

func (a *attack) perform(ctx context.Context, r *run, funcs template.FuncMap) error {
	for i := range a.Steps {
		s := &a.Steps[i]
		agent := r.agents[s.Session]
		if agent == nil {
			var err error
			if agent, err = connect(ctx, r.place.addr, r.site.database, a.Startup); err != nil {
				return err
			}
			if agent.conn == nil && len(a.Startup) == 0 {
				return fmt.Errorf("the session was refused: %q", agent.tape.bytes)
			}
			r.agents[s.Session] = agent
			r.order = append(r.order, agent)
		}
		if s.Cancel {
			if err := agent.cancel(ctx, r.place.addr); err != nil {
				return err
			}
			continue
		}
		for n := range max(s.Times, 1) {
			funcs["i"] = func() int { return n + 1 }
			out, ready, err := s.encode(r.mode, funcs)
			if err == nil {
				err = agent.run(out, ready)
			}
			if err != nil {
				return fmt.Errorf("step %d: %w", i+1, err)
			}
		}
	}
	return nil
}

// funcs are what the texts of a case may use between << and >>.
func (r *run) funcs() template.FuncMap {
	return template.FuncMap{
		"i":     func() int { return 1 },
		"watch": func() string { return r.place.lab.watch },
		"db":    func() string { return r.site.database },
		"port":  func() string { return strconv.Itoa(r.place.lab.server.Port) },
		"pad":   func(n int, what string) string { return strings.Repeat(what, n) },
		"canary": func(name string) string {
			i := slices.IndexFunc(canaries, func(c canary) bool { return c.name == name })
			return canaries[i].twins[r.site.twin]
		},
		"byte": func(n int) string { return string([]byte{byte(n)}) },
		"pid":  func(session string) string { return strconv.FormatUint(uint64(r.agents[session].pid), 10) },
	}
}
