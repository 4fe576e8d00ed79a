package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/cgroup"
	"github.com/headgate/headgate/pkg/kernel"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
)

// rescanInterval is how often cgroups and executables are looked for that no
// event told of.
const rescanInterval = 10 * time.Second

// agents keeps the kernel's enrolment rules what the policy says: its names and
// globs mean other cgroups and files from one moment to the next.
type agents struct {
	d     *daemon
	mount string

	mu     sync.Mutex
	engine *policy.Engine // as the kernel was told

	older older
}

// apply tells the kernel who is an agent by the policy. Processes that run
// already are enrolled by take.
func (a *agents) apply(engine *policy.Engine) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	// New cgroups are reported before the old ones are listed, so that none is
	// missed between the two.
	if err := a.d.kernel.WatchCgroups(wantsCgroups(engine)); err != nil {
		return err
	}
	if err := a.tell(engine); err != nil {
		return err
	}
	if err := a.d.kernel.SetDeniedSockets(deniedSockets(engine)); err != nil {
		return err
	}
	a.engine = engine
	return nil
}

func wantsCgroups(engine *policy.Engine) bool {
	for _, agent := range engine.Agents() {
		if len(agent.Cgroups)+len(agent.Units)+len(agent.Containers) > 0 {
			return true
		}
	}
	return false
}

func (a *agents) tell(engine *policy.Engine) error {
	if err := a.name(engine); err != nil {
		return err
	}
	known, err := a.d.kernel.RuledCgroups()
	if err != nil {
		return err
	}
	rules := kernel.Rules{UIDs: map[uint32]uint32{}, Executables: map[kernel.File]uint32{}, Known: known}
	for _, agent := range engine.Agents() {
		number := enrolmentOf(agent.Name)
		for _, name := range agent.Users {
			uid, err := uidOf(name)
			if err != nil {
				return fmt.Errorf("agent %q: %w", agent.Name, err)
			}
			// Of two agents that name the same, the first by name has it.
			if _, taken := rules.UIDs[uid]; !taken {
				rules.UIDs[uid] = number
			}
		}
		for _, path := range agent.Executables {
			file, err := fileOf(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue // until it is installed; rescan looks again
			}
			if err != nil {
				return fmt.Errorf("agent %q: %w", agent.Name, err)
			}
			if _, taken := rules.Executables[file]; !taken {
				rules.Executables[file] = number
			}
		}
	}
	if rules.Cgroups, err = a.cgroups(engine); err != nil {
		return err
	}
	return a.d.kernel.SetRules(rules)
}

// name has the kernel enrol cgroups by their names when they are made: this
// process may come late, or not be there.
func (a *agents) name(engine *policy.Engine) error {
	var rules []kernel.CgroupName
	for _, n := range engine.CgroupNames() {
		rules = append(rules, kernel.CgroupName{
			Level: n.Level, Head: n.Head, Tail: n.Tail, MinLen: n.MinLen, MaxLen: n.MaxLen, Enrolment: enrolmentOf(n.Agent),
		})
	}
	left, err := a.d.kernel.SetCgroupNames(rules)
	if err != nil {
		return err
	}
	if engine != a.engine {
		for _, n := range left {
			a.d.log.Warn().Str("begins", n.Head).Str("ends", n.Tail).Msg("too many or too long names of cgroups for the kernel: new ones are enrolled only while this daemon sees them")
		}
	}
	return nil
}

// cgroups lists those that are agents' now. One whose agent is that of the
// cgroups around it is left out: the kernel takes the nearest that is listed.
func (a *agents) cgroups(engine *policy.Engine) (map[uint64]uint32, error) {
	found := map[uint64]uint32{}
	if !wantsCgroups(engine) {
		return found, nil
	}
	err := filepath.WalkDir(a.mount, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		name, ok := newAgentAt(engine, below(a.mount, path))
		if !ok {
			return nil
		}
		id, err := cgroup.ID(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		found[id] = enrolmentOf(name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for cgroups of agents: %w", err)
	}
	return found, nil
}

// newAgentAt returns the agent whose cgroup a path is, unless the cgroup belongs
// to the same one by those around it.
func newAgentAt(engine *policy.Engine, path string) (name string, ok bool) {
	name, ok = engine.AgentAtCgroup(path)
	if !ok || path == "/" {
		return name, ok
	}
	around, covered := agentAround(engine, filepath.Dir(path))
	return name, !covered || around != name
}

// agentAround returns the agent of a cgroup or else of the nearest one around it
// that is an agent's.
func agentAround(engine *policy.Engine, path string) (name string, ok bool) {
	for at := path; ; at = filepath.Dir(at) {
		if name, ok := engine.AgentAtCgroup(at); ok {
			return name, true
		}
		if at == "/" || at == "." {
			return "", false
		}
	}
}

// below is the path of a cgroup as policies have it.
func below(mount, path string) string {
	return "/" + strings.Trim(strings.TrimPrefix(path, mount), "/")
}

func fileOf(path string) (kernel.File, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return kernel.File{}, fmt.Errorf("inspect executable: %w", &fs.PathError{Op: "stat", Path: path, Err: err})
	}
	return kernel.File{Device: st.Dev, Inode: st.Ino}, nil
}

// cgroupMade enrols a new cgroup if it is an agent's, and who is in it already.
func (a *agents) cgroupMade(id uint64, path string) error {
	// The kernel knew the name, or a rescan was first: there is nobody to look for.
	// Who makes thousands of such cgroups must not keep the events from being read.
	if number, ok := a.d.kernel.CgroupRule(id); ok {
		name, _ := a.d.policies.Agent(number)
		a.d.log.Info().Str("cgroup", path).Str("agent", name).Msg("cgroup enrolled")
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// An agent can make any number below its own: they need no rule.
	name, ok := newAgentAt(a.engine, path)
	if !ok {
		return nil
	}
	number := enrolmentOf(name)
	if err := a.d.kernel.EnrolCgroup(id, number); err != nil {
		// The rescan tries again; until then its processes are not agents.
		a.d.log.Error().Err(err).Str("cgroup", path).Msg("new cgroup of an agent not enrolled")
		return nil
	}
	a.d.log.Info().Str("cgroup", path).Str("agent", name).Msg("cgroup enrolled")
	a.take(context.Background())
	return nil
}

// watch looks again from time to time, and when events were lost.
func (a *agents) watch(ctx context.Context) error {
	var worker sync.WaitGroup
	defer worker.Wait()
	worker.Go(func() { a.older.run(ctx, a.d.kernel, a.d.log) })
	// Trees that began when no daemon was there to hear of it.
	a.older.rest(a.d.kernel, a.d.log)
	tick := time.NewTicker(rescanInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			a.rescan(ctx)
			a.older.rest(a.d.kernel, a.d.log)
		}
	}
}

func (a *agents) rescan(ctx context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.engine == nil {
		return
	}
	if err := a.tell(a.engine); err != nil {
		a.d.log.Error().Err(err).Msg("enrolment rules not renewed")
	}
	// A daemon that starts again makes its socket anew.
	if err := a.d.kernel.SetDeniedSockets(deniedSockets(a.engine)); err != nil {
		a.d.log.Error().Err(err).Msg("denied unix sockets not renewed")
	}
	a.take(ctx)
}

// start takes in who runs already.
func (a *agents) start(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.take(ctx)
	return nil
}

// take enrols the processes that a rule names and that ran before it was there,
// and destroys their open connections, which were nobody's. The kernel enrols the
// others at their next exec or connection; of those, older does the same.
func (a *agents) take(ctx context.Context) {
	if a.engine == nil || !slices.ContainsFunc(a.engine.Agents(), namesProcesses) {
		return
	}
	alive, err := a.d.kernel.Living()
	if err != nil {
		a.d.log.Error().Err(err).Msg("running processes not looked for")
		return
	}
	find := newFinder(a.engine)
	for _, id := range alive {
		name, how, err := find.agentOf(int(id.PID))
		if err == nil && name != "" {
			err = a.enrol(ctx, id, name, how)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) && !errors.Is(err, kernel.ErrGone) {
			a.d.log.Error().Err(err).Uint32("pid", id.PID).Msg("running process not enrolled")
		}
	}
}

// namesProcesses reports whether processes are an agent's by what they are. Others
// are enrolled by hand, or by headgate run.
func namesProcesses(a policy.Agent) bool {
	return len(a.Users)+len(a.Cgroups)+len(a.Units)+len(a.Executables)+len(a.Containers) > 0
}

func (a *agents) enrol(ctx context.Context, id process.ID, name, how string) error {
	if id.PID == uint32(os.Getpid()) {
		return nil
	}
	number := enrolmentOf(name)
	_, err := a.d.kernel.Enrol(ctx, int(id.PID), id.Start, number)
	if errors.Is(err, kernel.ErrEnrolled) {
		return nil
	}
	if err != nil {
		return err
	}
	a.d.log.Info().Uint32("pid", id.PID).Str("agent", name).Str("by", how).Msg("running process enrolled")
	return a.d.recordEnrolment(enrolled{agent: name, number: number, root: id, how: how})
}

// agentOf finds the agent that a living process belongs to by a rule, as the
// kernel does: by user, by cgroup, by executable.
func agentOf(engine *policy.Engine, pid int) (name, how string, err error) {
	return newFinder(engine).agentOf(pid)
}

// finder finds the agents of many processes: what the policy names is looked up
// once.
type finder struct {
	engine *policy.Engine
	users  map[uint32]string      // agents by user
	files  map[kernel.File]string // agents by executable
}

// newFinder looks up what the policy names. Of two agents that name the same, the
// first has it.
func newFinder(engine *policy.Engine) *finder {
	f := &finder{engine: engine, users: map[uint32]string{}, files: map[kernel.File]string{}}
	for _, agent := range engine.Agents() {
		for _, user := range agent.Users {
			if uid, err := uidOf(user); err == nil {
				first(f.users, uid, agent.Name)
			}
		}
		for _, path := range agent.Executables {
			if file, err := fileOf(path); err == nil {
				first(f.files, file, agent.Name)
			}
		}
	}
	return f
}

func first[K comparable](names map[K]string, key K, name string) {
	if _, taken := names[key]; !taken {
		names[key] = name
	}
}

func (f *finder) agentOf(pid int) (name, how string, err error) {
	uid, path, err := kernel.Owner(pid)
	if err != nil {
		return "", "", err
	}
	if name, ok := f.users[uid]; ok {
		return name, audit.HowUser, nil
	}
	if name, ok := agentAround(f.engine, path); ok {
		return name, audit.HowCgroup, nil
	}
	if len(f.files) == 0 {
		return "", "", nil
	}
	exe, err := fileOf(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	if name, ok := f.files[exe]; ok && err == nil { // kernel threads have none
		return name, audit.HowExecutable, nil
	}
	return "", "", nil
}

// enrolled records a tree that a rule in the kernel began, and has its older
// connections end. The event tells all that has to be known: the process may be
// gone by now.
func (a *agents) enrolled(ev process.Event) {
	a.older.add(ev.Root)
	name, ok := a.d.policies.Agent(ev.Enrolment)
	if !ok {
		a.d.log.Error().Uint32("pid", ev.ID.PID).Uint32("enrolment", ev.Enrolment).Msg("enrolment of an agent that is in no policy")
		return
	}
	event := enrolOf(ev, name)
	event.Principal = a.d.binder.Of(ev.Root)
	// The kernel does not say which rule; the process may not be as it was then.
	if is, by, err := agentOf(a.d.policies.Engine(), int(ev.ID.PID)); err == nil && is == name {
		event.How = by
	}
	if err := a.d.audit.Append(audit.KindEnrol, event); err != nil {
		a.d.log.Error().Err(err).Msg("enrolment not recorded")
	}
}

// enrolOf is what an event of the kernel side says of a new tree.
func enrolOf(ev process.Event, agent string) audit.Enrol {
	e := audit.Enrol{Agent: agent, Enrolment: ev.Enrolment, Root: ev.Root, How: audit.HowRule}
	// A process that a connection enrolled has no image in the event.
	if ev.Image != nil && ev.Image.Exe != "" {
		p := audit.ProcessOf(&process.Process{ID: ev.ID, Image: ev.Image, UID: ev.UID, Partial: ev.Partial})
		e.Process = &p
	}
	return e
}
