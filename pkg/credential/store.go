package credential

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
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
	// From says where the secret is: "file:/path", "systemd:NAME" or "env:NAME";
	// or "rds-iam:REGION", of which one is made for each login. It is empty for an
	// account that has no secret but the key of its certificate.
	From string
	// Hosts are the destinations that may receive the secret, as [ParseBinding]
	// reads them. Without one, none may.
	Hosts []string
	// Endpoints are the names, with their ports, that destinations were resolved
	// from. A secret that is made for a login is made for a name.
	Endpoints map[netip.AddrPort]string
	// Methods are the only ways to log in that may be used, of [Methods]. None
	// means that the protocol decides.
	Methods []string
	// Certificate is the path of a PEM file: what TLS shows to the upstream, and
	// the certificates between it and the authority.
	Certificate string
	// Key says where the certificate's private key is, as From does.
	Key string
	// Placeholder is the password that agents have in the secret's stead.
	Placeholder string
}

// Credential is an account and its secret, for one destination.
type Credential struct {
	Name     string
	Username string
	// Secret is empty where the account has only a certificate.
	Secret Secret
	// Token says that the secret was made for this login, and is to be sent as it
	// is: over TLS that is verified to the name, and never otherwise.
	Token bool
	// Methods are the only ways to log in that may be used with the secret, of
	// [Methods]. None of them means that the protocol decides.
	Methods []string
	// Certificate is what TLS shows to the upstream, in PEM, and Key the private
	// key of it. Both are empty where there is none.
	Certificate []byte
	Key         Secret
	// Placeholder is the password that agents have in the secret's stead; where
	// it is empty, they are asked for none.
	Placeholder Secret
	// Hosts are all destinations that the credential is bound to.
	Hosts []Binding
}

// Methods returns the ways to log in that a credential can be confined to, in the
// words of pg_hba.conf: the strongest first.
func Methods() []string {
	return []string{"scram-sha-256-plus", "scram-sha-256", "md5", "password", "none"}
}

// Store hands out credentials. The zero Store and a nil Store have none. A
// Store is safe for concurrent use.
type Store struct{ entries map[string]entry }

type entry struct {
	spec        Spec
	source      source // nil without a secret
	key         source // nil without a certificate
	placeholder Secret
	hosts       []Binding
}

// Option adds to what a [Store] can do.
type Option func(*sources)

// sources are where secrets can come from.
type sources struct {
	env  lookup
	mint Mint
}

// New checks the specs and makes a store of them. Secrets are not read before
// they are asked for, so that a missing file stops one resource and no daemon.
func New(specs []Spec, options ...Option) (*Store, error) {
	from := sources{env: os.LookupEnv}
	for _, o := range options {
		o(&from)
	}
	return newStore(specs, from)
}

func newStore(specs []Spec, from sources) (*Store, error) {
	s := &Store{entries: make(map[string]entry, len(specs))}
	for _, spec := range specs {
		if _, twice := s.entries[spec.Name]; twice || spec.Name == "" {
			return nil, fmt.Errorf("add credential: name %q is empty or used twice", spec.Name)
		}
		e, err := newEntry(spec, from)
		if err != nil {
			return nil, fmt.Errorf("add credential %s: %v", spec.Name, err)
		}
		s.entries[spec.Name] = e
	}
	return s, nil
}

func newEntry(spec Spec, from sources) (e entry, err error) {
	e.spec, e.placeholder = spec, NewSecret([]byte(spec.Placeholder))
	if spec.From != "" || spec.Certificate == "" {
		if e.source, err = parseSource(spec, from); err != nil {
			return e, err
		}
	}
	if (spec.Certificate == "") != (spec.Key == "") {
		return e, errors.New("a certificate needs its key, and a key its certificate")
	}
	if spec.Key != "" {
		if e.key, err = parseSource(Spec{From: spec.Key}, sources{env: from.env}); err != nil {
			return e, fmt.Errorf("key: %v", err)
		}
	}
	for _, m := range spec.Methods {
		if !slices.Contains(Methods(), m) {
			return e, fmt.Errorf("method %q is not known, want %s", m, strings.Join(Methods(), ", "))
		}
	}
	for _, host := range spec.Hosts {
		b, err := ParseBinding(host)
		if err != nil {
			return e, err
		}
		e.hosts = append(e.hosts, b)
	}
	return e, nil
}

// For returns the credential for a destination, with its secret as it is at
// this moment: nothing is cached. It fails with [ErrUnknown] if
// there is no such credential, with [ErrNotBound] if the destination may not
// receive it, before the secret is looked at, and otherwise with what went
// wrong when the secret was read or made. An error never contains the secret.
func (s *Store) For(ctx context.Context, name string, target netip.AddrPort) (Credential, error) {
	e, c, err := s.bound(name, target)
	if err == nil {
		err = e.certify(ctx, &c)
	}
	if err == nil {
		err = e.fill(ctx, &c, target)
	}
	if err != nil {
		return Credential{}, fmt.Errorf("use credential %s: %w", name, err)
	}
	return c, nil
}

// Certificate is [Store.For] without the secret: what TLS needs to know, before
// anybody logs in.
func (s *Store) Certificate(ctx context.Context, name string, target netip.AddrPort) (Credential, error) {
	e, c, err := s.bound(name, target)
	if err == nil {
		err = e.certify(ctx, &c)
	}
	if err != nil {
		return Credential{}, fmt.Errorf("use credential %s: %w", name, err)
	}
	return c, nil
}

// bound returns what is not secret of a credential, if it may go to the target.
func (s *Store) bound(name string, target netip.AddrPort) (entry, Credential, error) {
	e, err := s.entry(name)
	if err != nil {
		return entry{}, Credential{}, err
	}
	if !slices.ContainsFunc(e.hosts, func(b Binding) bool { return b.Contains(target) }) {
		return entry{}, Credential{}, fmt.Errorf("%w: %s", ErrNotBound, target)
	}
	return e, Credential{
		Name: name, Username: e.spec.Username, Methods: slices.Clone(e.spec.Methods),
		Placeholder: e.placeholder, Hosts: slices.Clone(e.hosts),
	}, nil
}

// certify reads the certificate and its key.
func (e *entry) certify(ctx context.Context, c *Credential) (err error) {
	if e.key == nil {
		return nil
	}
	if c.Key, err = e.key.read(ctx, netip.AddrPort{}); err != nil {
		return err
	}
	c.Certificate, err = readCertificate(e.spec.Certificate)
	return err
}

// fill reads the secret.
func (e *entry) fill(ctx context.Context, c *Credential, target netip.AddrPort) (err error) {
	if e.source != nil {
		if c.Secret, err = e.source.read(ctx, target); err != nil {
			return err
		}
		_, c.Token = e.source.(minted)
	}
	if !c.Placeholder.IsZero() && c.Placeholder.Equal(c.Secret) {
		return errors.New("the placeholder is the secret itself: give agents another one")
	}
	return nil
}

// Check reads a credential's secret and key and says what is wrong with them,
// without giving them to anybody. A secret that is made for a login is not made.
func (s *Store) Check(name string) error {
	e, err := s.entry(name)
	if err != nil {
		return fmt.Errorf("check credential %s: %w", name, err)
	}
	if _, ok := e.source.(minted); ok {
		e.source = nil
	}
	c := Credential{Placeholder: e.placeholder}
	err = errors.Join(e.certify(context.Background(), &c), e.fill(context.Background(), &c, netip.AddrPort{}))
	if err != nil {
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
		return entry{}, ErrUnknown
	}
	e, ok := s.entries[name]
	if !ok {
		return entry{}, ErrUnknown
	}
	return e, nil
}
