package deptest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// level is a home of packages and its level. What is below a home belongs to it,
// unless it is a home itself.
type level struct {
	home  string
	level int
	// never names homes of lower levels that may not be imported all the same.
	never []string
}

// levels is the architecture. A package imports only homes of lower levels.
var levels = []level{
	{home: "bpf"},
	{home: "pkg/cgroup"},
	{home: "pkg/process"},
	{home: "pkg/credential"},
	{home: "pkg/mask"},
	{home: "pkg/record"},
	{home: "pkg/confine"},
	{home: "pkg/socket"},
	{home: "pkg/upstream/datagram"},
	{home: "pkg/certs"},
	{home: "pkg/metrics"},
	{home: "pkg/upstream", level: 1},
	{home: "pkg/identity", level: 1},
	{home: "pkg/transparent", level: 1},
	{home: "pkg/names", level: 1},
	{home: "pkg/kernel", level: 2},
	{home: "pkg/policy", level: 2, never: []string{"bpf", "pkg/cgroup", "pkg/upstream", "pkg/record", "pkg/metrics"}},
	{home: "pkg/approval", level: 3},
	{home: "pkg/audit", level: 3},
	{home: "pkg/protocol", level: 3, never: []string{"bpf", "pkg/kernel", "pkg/cgroup"}},
	{home: "pkg/protocol/*", level: 4, never: []string{"bpf", "pkg/kernel", "pkg/cgroup"}},
	{home: "pkg/gateway", level: 4, never: []string{"bpf", "pkg/kernel", "pkg/cgroup"}},
	{home: "pkg/protocol/all", level: 5, never: []string{"bpf", "pkg/kernel", "pkg/cgroup"}},
	{home: "pkg/config", level: 6},
	{home: "pkg/control", level: 6},
	{home: "pkg/console", level: 6},
	{home: "cmd/headgate", level: 7},
}

// support is what only tests may import.
var support = []string{"pkg/internal", "pkg/protocol/protocoltest"}

// homeOf finds the home that a folder belongs to, the longest that fits.
func homeOf(dir string) (level, bool) {
	var best level
	found := false
	for _, l := range levels {
		home := l.home
		if parent, ok := strings.CutSuffix(home, "/*"); ok {
			rest, below := strings.CutPrefix(dir, parent+"/")
			if !below {
				continue
			}
			first, _, _ := strings.Cut(rest, "/")
			home = parent + "/" + first
		}
		// A home that is named wins over the same one from a pattern.
		if within(dir, home) && (!found || len(home) > len(best.home) || home == l.home && home == best.home) {
			best, found = level{home: home, level: l.level, never: l.never}, true
		}
	}
	return best, found
}

func TestPackagesImportOnlyLowerLevels(t *testing.T) {
	enforce(t, rule{
		reason: "a package that knows only what is below it can be read, tested and replaced on its own; one that reaches up or sideways turns the levels into a knot",
		remedy: "move what both need to a lower level, or let the higher package hand it down as a function; a new package needs a line in the table of levels, here and in .golangci.yml",
		check:  checkLevels,
	})
}

func checkLevels(t *tree) []string {
	var found []string
	homeless := map[string]bool{}
	for _, f := range t.files {
		if f.test {
			continue
		}
		from, ok := homeOf(f.dir)
		if !ok {
			if !homeless[f.dir] {
				found = append(found, f.dir+": it has no level")
			}
			homeless[f.dir] = true
			continue
		}
		for _, p := range f.imports() {
			if why := checkImport(from, p); why != "" {
				found = append(found, fmt.Sprintf("%s: imports %s: %s", f.path, p, why))
			}
		}
	}
	return found
}

func checkImport(from level, importPath string) string {
	dir, ours := strings.CutPrefix(importPath, module)
	if !ours || within(dir, from.home) && !withinAny(dir, support) {
		return ""
	}
	if withinAny(dir, support) {
		if withinAny(from.home, support) {
			return ""
		}
		return "only tests may"
	}
	to, ok := homeOf(dir)
	switch {
	case !ok:
		return "it has no level"
	case to.level >= from.level:
		return fmt.Sprintf("%s is level %d, and %s is level %d", from.home, from.level, to.home, to.level)
	case withinAny(dir, from.never):
		return fmt.Sprintf("%s may not see it", from.home)
	}
	return ""
}

// thirdParty gives each library the homes that may import it. Longer paths come
// first where one is the prefix of another.
var thirdParty = []struct {
	library string
	homes   []string
	reason  string
}{
	{"github.com/cilium/ebpf", []string{"bpf", "pkg/kernel"}, "one package talks to the kernel, and needs the privileges for it"},
	{"github.com/vishvananda/netlink", []string{"pkg/kernel"}, "one package talks to the kernel, and needs the privileges for it"},
	{"github.com/vishvananda/netns", []string{"pkg/kernel", "pkg/upstream"}, "a thread that changes its network namespace can take others with it"},
	{"github.com/coreos/go-oidc", []string{"pkg/identity"}, "who somebody is, is verified in one place"},
	{"github.com/go-jose/go-jose", []string{"pkg/identity"}, "who somebody is, is verified in one place"},
	{"github.com/prometheus/client_golang", []string{"pkg/metrics"}, "labels stay bounded where one package makes them"},
	{"github.com/jackc/pgproto3", []string{"pkg/protocol/postgres"}, "a protocol's codec is that protocol's own"},
	{"github.com/pganalyze/pg_query_go", []string{"pkg/protocol/postgres"}, "a protocol's grammar is that protocol's own"},
	{"github.com/wasilibs/go-pgquery", []string{"pkg/protocol/postgres"}, "a protocol's grammar is that protocol's own"},
	{"github.com/jackc/pgx", []string{"pkg/protocol/postgres/toy"}, "tests compare with it; what agents depend on is our own codec"},
	{"github.com/xdg-go/scram", []string{"pkg/protocol"}, "a log-in belongs to the protocol that it is part of"},
	{"github.com/aws/aws-sdk-go-v2", []string{"pkg/credential/rds"}, "it opens files, runs programs and asks the network by itself"},
	{"github.com/goccy/go-yaml", []string{"pkg/policy", "pkg/config"}, "two kinds of files are YAML, and each is read in one place"},
	{"github.com/spf13/cobra", []string{"cmd"}, "commands are for people, and packages are not"},
	{"github.com/coreos/go-systemd", []string{"cmd"}, "the daemon's life belongs to its main package"},
}

func TestLibrariesStayAtHome(t *testing.T) {
	enforce(t, rule{
		reason: "a library that one package wraps can be judged, bounded and replaced in that package",
		remedy: "ask the package that is the library's home for what you need",
		check:  checkLibraries,
	})
}

func checkLibraries(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if f.test {
			continue
		}
		for _, p := range f.imports() {
			for _, l := range thirdParty {
				if within(p, l.library) && !withinAny(f.dir, l.homes) {
					found = append(found, fmt.Sprintf("%s: imports %s, whose home is %v: %s", f.path, p, l.homes, l.reason))
				}
			}
		}
	}
	return found
}

func TestLowestLevelAndPolicyDoNotLog(t *testing.T) {
	enforce(t, rule{
		reason: "level 0 returns errors and lets its callers say them once; a policy that logs isn't pure",
		remedy: "return it as an error, or as part of the result",
		check:  checkSilent,
	})
}

func checkSilent(t *tree) []string {
	var found []string
	for _, f := range t.files {
		home, _ := homeOf(f.dir)
		silent := home.level == 0 || home.home == "pkg/policy"
		if f.test || !silent {
			continue
		}
		for _, p := range f.imports() {
			if within(p, "github.com/rs/zerolog") || p == "log" || p == "log/slog" {
				if p == "log/slog" && f.dir == "pkg/credential" {
					continue // to refuse being logged, one has to know the logger
				}
				found = append(found, f.path+": imports "+p)
			}
		}
	}
	return found
}

func TestPolicyIsPure(t *testing.T) {
	enforce(t, rule{
		reason: "the same question must have the same answer in a test, in a replay and in the daemon: no I/O and no clock",
		remedy: "put the fact into policy.Request, or let the caller read the file",
		check:  checkPure,
	})
}

func checkPure(t *tree) []string {
	impure := []string{"os", "os/exec", "net", "net/http", "syscall", "io/ioutil", "golang.org/x/sys/unix", "math/rand", "math/rand/v2"}
	var found []string
	for _, f := range t.files {
		if f.test || !within(f.dir, "pkg/policy") {
			continue
		}
		for _, p := range f.imports() {
			if slices.Contains(impure, p) {
				found = append(found, f.path+": imports "+p)
			}
		}
		found = append(found, t.uses(f, "time", func(name string) bool {
			return slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}, name)
		})...)
	}
	return found
}
