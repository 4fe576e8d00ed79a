package pgtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"testing"
)

// Version is a server that scripts/test-deps.sh installs.
type Version int

// The versions. Their tools, as psql, are those of System: the other packages
// carry a server only.
const (
	System Version = iota // what Debian has, in Debian 12 it is 15
	V18                   // PostgreSQL 18, in the tests' own cache
)

// Versions returns every version that tests of the wire should run against.
func Versions() []Version { return []Version{System, V18} }

// String names v as a subtest does.
func (v Version) String() string {
	switch v {
	case System:
		return "PostgreSQL of the system"
	case V18:
		return "PostgreSQL 18"
	}
	return fmt.Sprintf("version %d", int(v))
}

// Start is [Start] for a server of version v.
func (v Version) Start(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	return start(t, v, settings)
}

// Open is [Open] for a server of version v.
func (v Version) Open(settings ...string) (*Cluster, error) { return openUntilThread(v, settings) }

// Need skips the test, as [Skip] does, where v is not installed.
func (v Version) Need(t testing.TB) {
	t.Helper()
	if _, err := v.programs(); errors.Is(err, ErrMissing) {
		Skip(t, err.Error())
	} else {
		must(t, "look for a server", err)
	}
}

// Cache returns the directory into which scripts/test-deps.sh puts what Debian
// does not have: $HEADGATE_TEST_CACHE, or a directory below /var/cache.
func Cache() string {
	if dir := os.Getenv("HEADGATE_TEST_CACHE"); dir != "" {
		return dir
	}
	return "/var/cache/headgate-test"
}

// programs returns the directory of the programs of a server of version v.
func (v Version) programs() (string, error) {
	if v == System {
		return systemPrograms()
	}
	bin := filepath.Join(Cache(), "postgresql-18", "bin")
	if _, err := os.Stat(filepath.Join(bin, "postgres")); err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrMissing, v, err)
	}
	return bin, nil
}

// systemPrograms returns the directory of the newest server, and of its tools,
// that Debian's packages have installed.
func systemPrograms() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", fmt.Errorf("look for initdb: %w", err)
	}
	if len(found) == 0 {
		return "", ErrMissing
	}
	sort.Strings(found)
	return filepath.Dir(found[len(found)-1]), nil
}
