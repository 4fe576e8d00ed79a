package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/all"
)

// defaultAgent is the agent of `headgate run` where none is named. It is there
// without being declared: a policy's rules apply to it like to any other.
const defaultAgent = "default"

// policies is the policy in force and the way to the next one.
type policies struct {
	dir     string
	audit   *audit.Log
	options policy.Options

	engine atomic.Pointer[policy.Engine]
	names  atomic.Pointer[map[uint32]string]

	mu         sync.Mutex // one load at a time
	generation uint64
	lastErr    error
	seen       string // of the files that were read last; see fingerprint
}

// newPolicies returns policies of which none is loaded. Masked values that are
// hashed stay comparable until the daemon ends, and no longer.
func newPolicies(dir string, log *audit.Log, protocols []protocol.Protocol) (*policies, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make key for hashed masks: %w", err)
	}
	options := compileOptions(protocols)
	options.MaskKey = key
	return &policies{dir: dir, audit: log, options: options}, nil
}

// compileOptions are what every policy is checked against. Without protocols no
// word is refused.
func compileOptions(protocols []protocol.Protocol) policy.Options {
	// No identity provider is configured yet: a pattern for one would match
	// nobody, and is a mistake.
	o := policy.Options{Issuers: []string{}}
	if len(protocols) > 0 {
		o.Vocabulary, o.Metered, o.Facts = all.Vocabulary(protocols), all.Metered(protocols), all.Facts(protocols)
	}
	return o
}

// Engine returns the engine in force; nil, which denies, before the first load.
func (p *policies) Engine() *policy.Engine { return p.engine.Load() }

// Agent returns the name of the agent with an enrolment number.
func (p *policies) Agent(enrolment uint32) (string, bool) {
	names := p.names.Load()
	if names == nil {
		return "", false
	}
	name, ok := (*names)[enrolment]
	return name, ok
}

// LastError returns why the latest load changed nothing, or nil.
func (p *policies) LastError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lastErr
}

// Seen returns the fingerprint of the files that were read last, in force or not.
func (p *policies) Seen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// Load reads and compiles the policy directory and puts it in force, after
// apply has told the kernel. If anything fails, the old policy stays in force
// and the record says why.
func (p *policies) Load(ctx context.Context, apply func(*policy.Engine) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	files, err := config.LoadPolicies(p.dir)
	p.seen = fingerprint(files, err)
	var engine *policy.Engine
	var names map[uint32]string
	if err == nil {
		o := p.options
		o.Generation, o.Resolved = p.generation+1, resolve(ctx, hostsOf(files))
		engine, err = o.Compile(files...)
	}
	if err == nil {
		names, err = enrolments(engine)
	}
	event := audit.Policy{Generation: p.generation}
	for _, f := range files {
		event.Files = append(event.Files, audit.PolicyFile{Name: filepath.Base(f.Name()), SHA256: f.SHA256()})
	}
	if err != nil {
		event.Error = err.Error()
		p.lastErr = err
		return errors.Join(err, p.audit.Append(audit.KindPolicy, event))
	}
	forget := p.introduce(names)
	if err := p.apply(engine, apply); err != nil {
		forget()
		event.Error = err.Error()
		p.lastErr = err
		return errors.Join(err, p.audit.Append(audit.KindPolicy, event))
	}
	event.Generation, event.Mode = p.generation+1, engine.Mode().String()
	if err := p.audit.Append(audit.KindPolicy, event); err != nil {
		p.lastErr = err
		err = errors.Join(err, p.restore(apply))
		forget()
		return err
	}
	p.generation++
	p.engine.Store(engine)
	p.names.Store(&names)
	p.lastErr = nil
	return nil
}

// introduce makes the agents of the next policy known beside those of the one in
// force: the kernel is about to enrol them, and a tree whose agent has no name is
// turned away, and not recorded. What they may do the policy in force says until
// then. forget is for when there is no next policy, once the kernel knows.
func (p *policies) introduce(next map[uint32]string) (forget func()) {
	before := p.names.Load()
	both := maps.Clone(next)
	if before != nil {
		maps.Copy(both, *before)
	}
	p.names.Store(&both)
	return func() { p.names.Store(before) }
}

// apply tells the kernel about a policy. If that fails half-way, the policy in
// force is told again, so that nobody whom it enrols is free.
func (p *policies) apply(engine *policy.Engine, tell func(*policy.Engine) error) error {
	err := tell(engine)
	if err != nil {
		err = errors.Join(err, p.restore(tell))
	}
	return err
}

// restore tells the kernel the policy in force. Before the first one nothing is
// told: what an earlier daemon left in the kernel enforces, and no policy at all
// would let its agents go.
func (p *policies) restore(tell func(*policy.Engine) error) error {
	if p.Engine() == nil {
		return nil
	}
	return tell(p.Engine())
}

func hostsOf(files []*policy.File) []string {
	var names []string
	for _, f := range files {
		for _, h := range f.Hosts() {
			names = append(names, h.Name)
		}
	}
	return names
}

// resolve looks up host names. One that has no address matches nothing, and
// status lists it.
func resolve(ctx context.Context, names []string) map[string][]netip.Addr {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resolved := map[string][]netip.Addr{}
	for _, name := range names {
		if resolved[name] != nil {
			continue
		}
		if addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name); err == nil {
			resolved[name] = addrs
		}
	}
	return resolved
}

// enrolmentOf numbers an agent. The number is in kernel maps that outlive the
// daemon, so it depends on nothing but the name.
func enrolmentOf(agent string) uint32 {
	h := fnv.New32a()
	// Writing to a hash never fails.
	_, _ = h.Write([]byte(agent))
	return max(1, h.Sum32())
}

func enrolments(engine *policy.Engine) (map[uint32]string, error) {
	names := map[uint32]string{enrolmentOf(defaultAgent): defaultAgent}
	for _, a := range engine.Agents() {
		number := enrolmentOf(a.Name)
		if other, taken := names[number]; taken && other != a.Name {
			return nil, fmt.Errorf("agents %q and %q get the same number; rename one", a.Name, other)
		}
		names[number] = a.Name
	}
	return names, nil
}
