package policy

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/headgate/headgate/pkg/policy/strict"
)

// Errors is every finding of [Parse] or [Compile], each with its file, line
// and column.
type Errors = strict.Errors

// File is one parsed policy file. It is immutable. By itself it answers
// nothing; [Compile] makes an [Engine] of all files together.
type File struct {
	name   string
	sum    [sha256.Size]byte
	syntax fileSyntax
	at     strict.Positions
}

// Name returns the name that [Parse] was given.
func (f *File) Name() string { return f.name }

// SHA256 returns the hash of the bytes that were parsed, in hexadecimal.
func (f *File) SHA256() string { return hex.EncodeToString(f.sum[:]) }

// Hosts returns the host names that the file's resources give, for somebody to
// resolve; see [Options.Resolved].
func (f *File) Hosts() []Host {
	var hosts []Host
	for _, r := range f.syntax.Resources {
		for _, s := range r.Hosts {
			if h, err := ParseHost(s); err == nil && h.Name != "" {
				hosts = append(hosts, h)
			}
		}
	}
	return hosts
}

// Parse reads one policy file. The name is used in errors only. An error is an
// [Errors] and lists everything that can be found wrong without the other files.
func Parse(name string, data []byte) (*File, error) {
	f := &File{name: name, sum: sha256.Sum256(data), at: strict.Positions{}}
	errs := strict.Decode(name, data, &f.syntax, f.at)
	if _, understood := f.at[""]; understood {
		c := &checker{File: f}
		c.file()
		errs = withoutEchoes(errs, c.errs)
	}
	if err := errs.Err(); err != nil {
		return nil, err
	}
	return f, nil
}

// withoutEchoes adds later findings to those about the form of the file, except
// where they only follow from one on the same line.
func withoutEchoes(form, later strict.Errors) strict.Errors {
	reported := map[strict.Position]bool{}
	for _, e := range form {
		reported[e.Position] = true
	}
	for _, e := range later {
		if !reported[e.Position] {
			form = append(form, e)
		}
	}
	form.Sort()
	return form
}

// fileSyntax is a policy file as it is written.
type fileSyntax struct {
	// Version is the version of this format: 1. Required.
	Version int `yaml:"version"`
	// Mode is observe or enforce, for the rules and masks of this file.
	Mode      string           `yaml:"mode"`
	Agents    []agentSyntax    `yaml:"agents"`
	Resources []resourceSyntax `yaml:"resources"`
	Rules     []ruleSyntax     `yaml:"rules"`
	Masks     []maskSyntax     `yaml:"masks"`
	Defaults  defaultsSyntax   `yaml:"defaults"`
}

// agentSyntax says which processes are enrolled under a name. Without any, the
// agent is one that trees are enrolled under explicitly, by headgate run.
type agentSyntax struct {
	Name string `yaml:"name"`
	// Users are names or numeric ids.
	Users []string `yaml:"users,text"`
	// Cgroups are globs over paths below the mount point of cgroup2.
	Cgroups []string `yaml:"cgroups"`
	// Units are globs over names of systemd units.
	Units []string `yaml:"units"`
	// Executables are absolute paths.
	Executables []string `yaml:"executables"`
	// Containers are "*", runtimes, or a runtime and the start of an id.
	Containers []string `yaml:"containers"`
}

// resourceSyntax names an upstream target.
type resourceSyntax struct {
	Name     string `yaml:"name"`
	Protocol string `yaml:"protocol"`
	// Inspection is full or none. Full if left out.
	Inspection string `yaml:"inspection"`
	// Hosts are as ParseHost reads them, or "*.name:port".
	Hosts []string `yaml:"hosts"`
	// Paths are those of unix sockets; for protocol: unix, instead of hosts.
	Paths []string `yaml:"paths"`
	// Names are what may be asked for; for protocol: dns, instead of hosts.
	Names []string `yaml:"names"`
	// Servers restrict names to queries of these servers: "ip:port".
	Servers []string `yaml:"servers"`
	// Credential is the name of one in the configuration.
	Credential string    `yaml:"credential"`
	TLS        tlsSyntax `yaml:"tls"`
}

type tlsSyntax struct {
	// Verify is full, ca or off. What holds where it is left out is the
	// protocol's to say.
	Verify     string `yaml:"verify"`
	CA         string `yaml:"ca"`
	ServerName string `yaml:"server_name"`
	// Agent is offer or refuse. Offer if left out.
	Agent string `yaml:"agent"`
}

// ruleSyntax is one rule.
type ruleSyntax struct {
	Name   string `yaml:"name"`
	Effect string `yaml:"effect"`
	Mode   string `yaml:"mode"`
	// Resources are names, globs over names, or protocol:NAME. Required.
	Resources  []string       `yaml:"resources"`
	Principals []string       `yaml:"principals"`
	Agents     []string       `yaml:"agents"`
	Operations []string       `yaml:"operations"`
	Message    string         `yaml:"message"`
	When       string         `yaml:"when"`
	Approval   approvalSyntax `yaml:"approval"`
	Limits     limitsSyntax   `yaml:"limits"`
}

type approvalSyntax struct {
	Groups  []string `yaml:"groups"`
	Count   int      `yaml:"count"`
	Timeout string   `yaml:"timeout"`
	// Grant is once, statement, session or a duration.
	Grant string `yaml:"grant"`
}

// maskSyntax is one mask.
type maskSyntax struct {
	Name      string   `yaml:"name"`
	Resources []string `yaml:"resources"`
	Columns   []string `yaml:"columns"`
	Detect    []string `yaml:"detect"`
	With      string   `yaml:"with"`
	Constant  string   `yaml:"constant"`
	// Predicates is allow or deny: whether rows may be chosen, ordered, grouped or
	// joined by the columns. Allow if left out.
	Predicates string `yaml:"predicates"`
	// Copies is allow or deny: whether what is in the columns may be stored where
	// no mask follows, and their tables renamed, restructured or given triggers and
	// rules. Deny if left out.
	Copies string `yaml:"copies"`
	// Definitions is allow or deny: whether the catalogs show the texts of
	// definitions, such as those of views, defaults and functions, which may quote a
	// value. Allow if left out. One mask with deny is enough for all of them.
	Definitions string `yaml:"definitions"`
	// Unless are patterns of principals that see the values.
	Unless []string `yaml:"unless"`
}

// defaultsSyntax is what holds where no rule does. Each key may be given in
// one file only.
type defaultsSyntax struct {
	Mode             string `yaml:"mode"`
	Unmatched        string `yaml:"unmatched"`
	UnknownOperation string `yaml:"unknown_operation"`
	OnFailure        string `yaml:"on_failure"`
}

// Resources returns the names of the file's resources, as they stand in it.
func (f *File) Resources() []string {
	var names []string
	for _, r := range f.syntax.Resources {
		names = append(names, r.Name)
	}
	return names
}

// Agents returns the names of the file's agents, as they stand in it.
func (f *File) Agents() []string {
	var names []string
	for _, a := range f.syntax.Agents {
		names = append(names, a.Name)
	}
	return names
}
