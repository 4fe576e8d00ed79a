package credential

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
)

// ErrNotBound is returned for a destination that a credential may not be sent
// to. ErrUnknown is returned for a credential that is not configured.
var (
	ErrNotBound = errors.New("credential is not bound to this destination")
	ErrUnknown  = errors.New("no such credential")
)

// Spec is a credential as the configuration writes it.
type Spec struct {
	// Name is what resources refer to.
	Name string
	// Username is the account at the upstream; may be empty where the protocol
	// has none.
	Username string
	// From says where the secret is: "file:/path", "systemd:NAME" or "env:NAME".
	From string
	// Hosts are the destinations that may receive the secret, as [ParseBinding]
	// reads them. Without one, none may.
	Hosts []string
}

// Credential is an account and its secret, for one destination.
type Credential struct {
	Name     string
	Username string
	Secret   Secret
	// Methods are the only ways to log in that may be used with the secret, in
	// the words of the protocol. None of them means that the protocol decides.
	Methods []string
	// Hosts are all destinations that the credential is bound to.
	Hosts []Binding
}

// Store hands out credentials. The zero Store and a nil Store have none. A
// Store is safe for concurrent use.
type Store struct{ entries map[string]entry }

type entry struct {
	username string
	source   source
	hosts    []Binding
}

// New checks the specs and makes a store of them. Secrets are not read before
// they are asked for, so that a missing file stops one resource and no daemon.
func New(specs []Spec) (*Store, error) { return newStore(specs, os.LookupEnv) }

func newStore(specs []Spec, env lookup) (*Store, error) {
	s := &Store{entries: make(map[string]entry, len(specs))}
	for _, spec := range specs {
		if _, twice := s.entries[spec.Name]; twice || spec.Name == "" {
			return nil, fmt.Errorf("add credential: name %q is empty or used twice", spec.Name)
		}
		e := entry{username: spec.Username}
		var err error
		if e.source, err = parseSource(spec.From, env); err != nil {
			return nil, fmt.Errorf("add credential %s: %v", spec.Name, err)
		}
		for _, host := range spec.Hosts {
			b, err := ParseBinding(host)
			if err != nil {
				return nil, fmt.Errorf("add credential %s: %v", spec.Name, err)
			}
			e.hosts = append(e.hosts, b)
		}
		s.entries[spec.Name] = e
	}
	return s, nil
}

// For returns the credential for a destination, with its secret as it is at
// this moment: nothing is cached. It fails with [ErrUnknown] if
// there is no such credential, with [ErrNotBound] if the destination may not
// receive it, before the secret is looked at, and otherwise with what went
// wrong when the secret was read. An error never contains the secret.
func (s *Store) For(name string, target netip.AddrPort) (Credential, error) {
	e, err := s.entry(name)
	if err != nil {
		return Credential{}, err
	}
	if !slices.ContainsFunc(e.hosts, func(b Binding) bool { return b.Contains(target) }) {
		return Credential{}, fmt.Errorf("use credential %s for %s: %w", name, target, ErrNotBound)
	}
	secret, err := e.source.read()
	if err != nil {
		return Credential{}, fmt.Errorf("use credential %s: %w", name, err)
	}
	return Credential{Name: name, Username: e.username, Secret: secret, Hosts: slices.Clone(e.hosts)}, nil
}

// Check reads a credential's secret and says what is wrong with it, without
// giving it to anybody.
func (s *Store) Check(name string) error {
	e, err := s.entry(name)
	if err != nil {
		return err
	}
	if _, err := e.source.read(); err != nil {
		return fmt.Errorf("check credential %s: %w", name, err)
	}
	return nil
}

// Names returns the names of all credentials, sorted.
func (s *Store) Names() []string {
	if s == nil {
		return nil
	}
	names := make([]string, 0, len(s.entries))
	for name := range s.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (s *Store) entry(name string) (entry, error) {
	if s == nil {
		return entry{}, fmt.Errorf("use credential %s: %w", name, ErrUnknown)
	}
	e, ok := s.entries[name]
	if !ok {
		return entry{}, fmt.Errorf("use credential %s: %w", name, ErrUnknown)
	}
	return e, nil
}
