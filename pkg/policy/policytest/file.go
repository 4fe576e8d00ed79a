package policytest

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/policy/strict"
)

// File is one parsed file of tests. It is immutable.
type File struct {
	name   string
	syntax fileSyntax
	at     strict.Positions
	extras *policy.File
}

// Name returns the name that [Parse] was given.
func (f *File) Name() string { return f.name }

// Files returns the names of the policy files that the tests are about, as they are
// written: relative to the file's directory. None are all of that directory.
func (f *File) Files() []string { return f.syntax.Files }

// FilesAt returns where the i-th name of [File.Files] stands.
func (f *File) FilesAt(i int) strict.Position { return f.at.At(item("files", i)) }

// fileSyntax is a file of tests as it is written.
type fileSyntax struct {
	Version   int                 `yaml:"version"`
	Files     []string            `yaml:"files"`
	Agents    policy.AgentList    `yaml:"agents"`
	Resources policy.ResourceList `yaml:"resources"`
	Addresses map[string]address  `yaml:"addresses"`
	Given     givenSyntax         `yaml:"given"`
	Tests     []testSyntax        `yaml:"tests"`
}

// givenSyntax is what all tests share, unless they say otherwise.
type givenSyntax struct {
	Principal string            `yaml:"principal"`
	Groups    []string          `yaml:"groups"`
	Claims    map[string]string `yaml:"claims"`
	Agent     string            `yaml:"agent"`
	Lineage   []programSyntax   `yaml:"lineage"`
	Time      moment            `yaml:"time"`
	Resource  string            `yaml:"resource"`
}

type testSyntax struct {
	Name string `yaml:"name"`

	Principal string            `yaml:"principal"`
	Groups    []string          `yaml:"groups"`
	Claims    map[string]string `yaml:"claims"`
	Agent     string            `yaml:"agent"`
	Lineage   []programSyntax   `yaml:"lineage"`
	Time      moment            `yaml:"time"`

	Resource  string `yaml:"resource"`
	Target    string `yaml:"target"`
	Transport string `yaml:"transport"`
	Protocol  string `yaml:"protocol"`
	Socket    string `yaml:"socket"`
	Asked     string `yaml:"asked"`

	Statement string         `yaml:"statement"`
	Effects   []string       `yaml:"effects"`
	Objects   []objectSyntax `yaml:"objects"`
	Connect   bool           `yaml:"connect"`

	Expect expectSyntax `yaml:"expect"`
}

type programSyntax struct {
	Exe  string   `yaml:"exe,short"`
	Argv []string `yaml:"argv,text"`
	UID  uint32   `yaml:"uid"`
}

// objectSyntax is a thing that an operation touches.
type objectSyntax struct {
	Kind  string `yaml:"kind"`
	Name  string `yaml:"name,text"`
	Write bool   `yaml:"write"`
}

type expectSyntax struct {
	Decision  string       `yaml:"decision,short"`
	Rule      string       `yaml:"rule"`
	Reason    string       `yaml:"reason"`
	WouldHave string       `yaml:"would_have"`
	Mode      string       `yaml:"mode"`
	Kernel    string       `yaml:"kernel"`
	Limits    limitsSyntax `yaml:"limits"`

	Masked     []string `yaml:"masked"`
	Clear      []string `yaml:"clear"`
	Found      []string `yaml:"found,text"`
	Passed     []string `yaml:"passed,text"`
	Searched   []string `yaml:"searched"`
	Unsearched []string `yaml:"unsearched"`
	Copied     []string `yaml:"copied"`
	Kept       []string `yaml:"kept"`
}

// limitsSyntax bounds one operation, and what a tree may have in a minute.
type limitsSyntax struct {
	None       string `yaml:"all,short"`
	Rows       amount `yaml:"rows"`
	Bytes      amount `yaml:"bytes"`
	Operations amount `yaml:"operations_per_minute"`
	RowsRate   amount `yaml:"rows_per_minute"`
	BytesRate  amount `yaml:"bytes_per_minute"`
}

// noLimit is what a limit that does not hold is written as.
const noLimit = "none"

// amount is a number, of bytes where it has a unit, or 0 for "none".
type amount uint64

// UnmarshalText reads a number as a policy has it, or "none".
func (a *amount) UnmarshalText(text []byte) error {
	if string(text) == noLimit {
		*a = 0
		return nil
	}
	n, err := policy.ParseSize(string(text))
	*a = amount(n)
	return err
}

// address is an IP address.
type address struct{ netip.Addr }

// moment is a time in RFC 3339.
type moment struct{ time.Time }

// UnmarshalText reads "2026-03-02T09:30:00Z".
func (m *moment) UnmarshalText(text []byte) error {
	t, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return fmt.Errorf("%q is not a time, as in 2026-03-02T09:30:00Z", text)
	}
	m.Time = t
	return nil
}

// UnmarshalText reads an address without a zone.
func (a *address) UnmarshalText(text []byte) error {
	addr, err := netip.ParseAddr(string(text))
	if err != nil || addr.Zone() != "" {
		return fmt.Errorf("%q is not an address, as in 10.0.3.7", text)
	}
	a.Addr = addr.Unmap()
	return nil
}

// Parse reads a file of tests. The name is used in errors and reports. An error is a
// [policy.Errors], and lists everything that can be found wrong without the policy.
func Parse(name string, data []byte) (*File, error) {
	f := &File{name: name, at: strict.Positions{}}
	errs := strict.Decode(name, data, &f.syntax, f.at)
	if errs.Err() != nil {
		return nil, errs.Err()
	}
	c := &checker{File: f}
	c.file()
	extras, err := policy.Sections(name, f.syntax.Agents, f.syntax.Resources, f.at)
	var more policy.Errors
	if errors.As(err, &more) {
		c.errs = append(c.errs, more...)
	}
	c.errs.Sort()
	if err := c.errs.Err(); err != nil {
		return nil, err
	}
	f.extras = extras
	return f, nil
}

func item(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }
