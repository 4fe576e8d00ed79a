package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/policy/replay"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/all"
	"github.com/headgate/headgate/pkg/transparent"
)

// loadedPolicy is a policy that the command line tries things on.
type loadedPolicy struct {
	dir       string
	files     []*policy.File
	engine    *policy.Engine
	protocols []protocol.Protocol
}

// readPolicy compiles the directory that a command was given, or the configured
// one. Host names of resources are looked up, as the daemon does.
func readPolicy(cmd *cobra.Command, args []string) (*loadedPolicy, error) {
	dir, err := policyDir(cmd, args)
	if err != nil {
		return nil, err
	}
	return readPolicyDir(cmd, dir)
}

// policyDir is the directory that a command was given, or the configured one.
func policyDir(cmd *cobra.Command, args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	cfg, err := loadConfig(cmd)
	if err != nil {
		return "", err
	}
	return cfg.Policies, nil
}

func readPolicyDir(cmd *cobra.Command, dir string) (*loadedPolicy, error) {
	files, err := config.LoadPolicies(dir)
	if err != nil {
		return nil, usageError{err}
	}
	p := &loadedPolicy{dir: dir, files: files, protocols: all.Protocols(protocol.Settings{})}
	o := compileOptions(p.protocols)
	o.Generation, o.Resolved = 1, resolve(cmd.Context(), hostsOf(files))
	if p.engine, err = o.Compile(files...); err != nil {
		return nil, usageError{err}
	}
	return p, nil
}

// read says what a text does in a protocol.
func (p *loadedPolicy) read(name, text string) ([]policy.Operation, error) {
	return all.Read(p.protocols, name, text)
}

// factsOf returns the facts that a recorded text tells; those of an operation that
// was read here are there.
func (p *loadedPolicy) factsOf(o *policy.Observation) policy.Facts {
	if o.Request.Operation.Facts != nil {
		return o.Request.Operation.Facts
	}
	return replay.FactsOf(o, p.read)
}

// hypothetical is something that did not happen.
type hypothetical struct {
	principal, agent, resource, target, statement string
	groups, exes, names, effects                  []string
	uid                                           uint32
}

func (h *hypothetical) flags(f *pflag.FlagSet) {
	f.StringVar(&h.principal, "as", "", "on whose behalf: ISSUER:SUBJECT (default: anonymous)")
	f.StringSliceVar(&h.groups, "group", nil, "a group of the principal; may be repeated")
	f.StringVar(&h.agent, "agent", policy.DefaultAgent, "the agent's name in the policy")
	f.StringSliceVar(&h.exes, "exe", nil, "the executables of the process and its ancestors, nearest first")
	f.Uint32Var(&h.uid, "uid", 0, "the number of the processes' user")
	f.StringVar(&h.resource, "resource", "", "the resource's name in the policy")
	f.StringVar(&h.target, "to", "", "the target as ADDRESS:PORT (default: one of the resource's)")
	f.StringSliceVar(&h.names, "name", nil, "a name that a trusted server told for the address")
	f.StringVar(&h.statement, "statement", "", "what is done there, in the protocol's own language (default: connect)")
	f.StringSliceVar(&h.effects, "effect", nil, "what is done there, by the words of rules' operations")
}

func (h *hypothetical) given() bool { return h.resource != "" || h.target != "" }

// observations returns the requests that it stands for: one for each statement.
func (h *hypothetical) observations(p *loadedPolicy) ([]policy.Observation, error) {
	req := policy.Request{Agent: h.agent, Names: h.names, Time: time.Now()}
	var err error
	if req.Principal, err = h.whom(); err != nil {
		return nil, usageError{err}
	}
	for i := len(h.exes) - 1; i >= 0; i-- {
		id := process.ID{PID: uint32(i + 1), Start: 1}
		req.Process = &process.Process{ID: id, UID: h.uid, Image: &process.Image{Exe: h.exes[i], Argv: []string{h.exes[i]}}, Parent: req.Process}
	}
	name, err := h.where(p, &req)
	if err != nil {
		return nil, usageError{err}
	}
	operations, err := h.what(p, name)
	if err != nil {
		return nil, usageError{err}
	}
	list := make([]policy.Observation, len(operations))
	for i := range operations {
		list[i].Request = req
		list[i].Request.Operation = operations[i]
	}
	return list, nil
}

func (h *hypothetical) whom() (identity.Principal, error) {
	if h.principal == "" || h.principal == identity.Anonymous.String() {
		return identity.Anonymous, nil
	}
	issuer, subject, ok := strings.Cut(h.principal, ":")
	if !ok || issuer == "" || subject == "" {
		return identity.Anonymous, fmt.Errorf("--as %q: want ISSUER:SUBJECT", h.principal)
	}
	return identity.Principal{Issuer: issuer, Subject: subject, Groups: h.groups}, nil
}

// where finds the target and returns the protocol that is spoken there.
func (h *hypothetical) where(p *loadedPolicy, req *policy.Request) (string, error) {
	if h.resource != "" {
		at, ok := p.engine.Example(h.resource)
		if !ok {
			return "", fmt.Errorf("--resource %q: the policy has none of that name with an address; give its target with --to", h.resource)
		}
		req.Target, req.Transport = at.Target, at.Transport
		req.Names = append(at.Names, req.Names...)
	}
	if h.target != "" {
		target, err := netip.ParseAddrPort(h.target)
		if err != nil {
			return "", fmt.Errorf("--to %q: want ADDRESS:PORT", h.target)
		}
		req.Target, req.Transport = target, transparent.TCP
	}
	r, _ := p.engine.ResourceOf(req)
	return r.Protocol, nil
}

func (h *hypothetical) what(p *loadedPolicy, name string) ([]policy.Operation, error) {
	switch {
	case h.statement != "" && len(h.effects) > 0:
		return nil, errors.New("--statement and --effect exclude each other")
	case h.statement != "":
		return p.read(name, h.statement)
	case len(h.effects) > 0:
		return []policy.Operation{{Protocol: name, Verb: h.effects[0], Effects: h.effects}}, nil
	}
	return []policy.Operation{{Protocol: name, Verb: policy.Connect, Effects: []string{policy.Connect}}}, nil
}
