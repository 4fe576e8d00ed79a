package config

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/policy/strict"
)

// Check reports everything that is wrong with a configuration, as
// [strict.Errors]. It opens and reads nothing.
func Check(c *Config) error { return check(c, strict.Positions{}) }

func check(c *Config, at strict.Positions) error {
	k := &checker{at: at}
	if c.Version != 1 {
		k.bad("version", "want 1")
	}
	k.intercept(c.Intercept)
	k.path("policies", c.Policies)
	k.path("state", c.State)
	k.path("control.socket", c.Control.Socket)
	// The longest path that fits into a sockaddr_un, unix(7).
	if len(c.Control.Socket) > 107 {
		k.bad("control.socket", "longer than 107 bytes")
	}
	if c.Metrics.Listen != "" {
		if _, err := netip.ParseAddrPort(c.Metrics.Listen); err != nil {
			k.bad("metrics.listen", "want an address and a port, as in 127.0.0.1:9641, or nothing")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Credentials)) {
		k.credential("credentials."+name, name, c.Credentials[name])
	}
	k.oneOf("record.level", string(c.Record.Level), string(Statements), string(Full))
	k.size("record.max_bytes_per_operation", c.Record.MaxBytesPerOperation, 0, 1<<30)
	k.size("record.max_bytes_per_session", c.Record.MaxBytesPerSession, 1<<10, math.MaxInt64)
	k.oneOf("mode", string(c.Mode), string(Observe), string(Enforce))
	k.oneOf("audit.durability", string(c.Audit.Durability), string(Write), string(Fsync))
	k.size("audit.segment_size", c.Audit.SegmentSize, 1<<20, 1<<40)
	k.limits(c.Limits)
	k.oneOf("protocols.shortcuts", string(c.Protocols.Shortcuts), string(On), string(Off))
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "json", "console")
	k.errs.Sort()
	return k.errs.Err()
}

type checker struct {
	at   strict.Positions
	errs strict.Errors
}

func (k *checker) bad(path, format string, args ...any) {
	k.errs.Add(k.at.At(path), "%s: %s", path, fmt.Sprintf(format, args...))
}

func (k *checker) path(at, path string) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		k.bad(at, "want a clean absolute path")
	}
}

func (k *checker) oneOf(at, got string, want ...string) {
	if !slices.Contains(want, got) {
		k.bad(at, "want %s", strings.Join(want, " or "))
	}
}

func (k *checker) size(at string, got, least, most Size) {
	if got < least || got > most {
		k.bad(at, "want %s to %s", least, most)
	}
}

func (k *checker) duration(at string, got Duration, least, most time.Duration) {
	if time.Duration(got) < least || time.Duration(got) > most {
		k.bad(at, "want %s to %s", least, most)
	}
}

func (k *checker) intercept(c Intercept) {
	if c.Cgroup != "" {
		k.path("intercept.cgroup", c.Cgroup)
	}
	if c.PinDir != "" {
		k.path("intercept.pin_dir", c.PinDir)
	}
	if c.Port == 0 {
		k.bad("intercept.port", "want a port from 1 to 65535")
	}
	k.duration("intercept.heartbeat", c.Heartbeat, time.Second, 5*time.Minute)
}

func (k *checker) limits(c Limits) {
	for _, l := range []struct {
		at        string
		got, most uint32
	}{{"limits.sessions", c.Sessions, 1 << 20}, {"limits.sessions_per_tree", c.SessionsPerTree, 1 << 20}, {"limits.processes", c.Processes, 1 << 22}} {
		if l.got == 0 || l.got > l.most {
			k.bad(l.at, "want 1 to %d", l.most)
		}
	}
	k.size("limits.statement_bytes", c.StatementBytes, 1<<10, 64<<20)
	k.size("limits.message_bytes", c.MessageBytes, 1<<10, 1<<30)
	if c.MessageBytes < c.StatementBytes {
		k.bad("limits.message_bytes", "want at least limits.statement_bytes")
	}
	k.duration("limits.attribute", c.Attribute, 10*time.Millisecond, time.Minute)
	k.duration("limits.detect", c.Detect, 10*time.Millisecond, 10*time.Minute)
	k.duration("limits.drain", c.Drain, 0, 10*time.Minute)
}
