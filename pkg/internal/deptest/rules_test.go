package deptest

import (
	"strings"
	"testing"
	"testing/fstest"
)

// TestRulesFindWhatTheyForbid gives each rule a module of one file that breaks
// it: a rule that can't fail guards nothing.
func TestRulesFindWhatTheyForbid(t *testing.T) {
	for _, test := range []struct {
		name  string
		check func(*tree) []string
		path  string
		text  string
		want  string // "" if the file is fine
	}{
		{"a lower level", checkLevels, "pkg/kernel/a.go", `package kernel; import "github.com/headgate/headgate/pkg/process"`, ""},
		{"the same level", checkLevels, "pkg/mask/a.go", `package mask; import "github.com/headgate/headgate/pkg/process"`, "level 0"},
		{"a higher level", checkLevels, "pkg/policy/a.go", `package policy; import "github.com/headgate/headgate/pkg/audit"`, "level 3"},
		{"another protocol", checkLevels, "pkg/protocol/redis/a.go", `package redis; import "github.com/headgate/headgate/pkg/protocol/tls"`, "level 4"},
		{"a part of one's own", checkLevels, "pkg/protocol/redis/a.go", `package redis; import "github.com/headgate/headgate/pkg/protocol/redis/wire"`, ""},
		{"a part's own whole", checkLevels, "pkg/protocol/redis/wire/a.go", `package wire; import "github.com/headgate/headgate/pkg/protocol/redis"`, ""},
		{"all in its level", checkLevels, "pkg/protocol/all/a.go", `package all; import "github.com/headgate/headgate/pkg/protocol/tls"`, ""},
		{"the kernel from a protocol", checkLevels, "pkg/protocol/redis/a.go", `package redis; import "github.com/headgate/headgate/pkg/kernel"`, "may not see it"},
		{"the kernel from the gateway", checkLevels, "pkg/gateway/a.go", `package gateway; import "github.com/headgate/headgate/pkg/kernel"`, "may not see it"},
		{"a protocol from the gateway", checkLevels, "pkg/gateway/a.go", `package gateway; import "github.com/headgate/headgate/pkg/protocol/tls"`, "level 4"},
		{"test support", checkLevels, "cmd/headgate/a.go", `package main; import "github.com/headgate/headgate/pkg/internal/testenv"`, "only tests may"},
		{"test support from a test", checkLevels, "pkg/mask/a_test.go", `package mask; import "github.com/headgate/headgate/pkg/internal/testenv"`, ""},
		{"a package without a level", checkLevels, "pkg/utils/a.go", `package utils`, "has no level"},
		{"a library away from home", checkLibraries, "pkg/gateway/a.go", `package gateway; import "github.com/cilium/ebpf/link"`, "whose home"},
		{"a later major version", checkLibraries, "pkg/gateway/a.go", `package gateway; import "github.com/coreos/go-oidc/v3/oidc"`, "whose home"},
		{"a library at home", checkLibraries, "pkg/kernel/a.go", `package kernel; import "github.com/cilium/ebpf/link"`, ""},
		{"a logger at level 0", checkSilent, "pkg/mask/a.go", `package mask; import "github.com/rs/zerolog"`, "zerolog"},
		{"a logger in the policy", checkSilent, "pkg/policy/strict/a.go", `package strict; import "log"`, "imports log"},
		{"a clock in the policy", checkPure, "pkg/policy/a.go", `package policy; import "time"; var now = time.Now`, "time.Now"},
		{"a file in the policy", checkPure, "pkg/policy/a.go", `package policy; import "os"`, "imports os"},
		{"a second door", checkOneDoor, "pkg/gateway/a.go", `package gateway; import "net"; var d net.Dialer`, "net.Dialer"},
		{"a door under another name", checkOneDoor, "pkg/gateway/a.go", `package gateway; import n "crypto/tls"; var d = n.DialWithDialer`, "n.DialWithDialer"},
		{"a client that dials", checkOneDoor, "pkg/identity/a.go", `package identity; import "net/http"; var c = &http.Client{Timeout: 1}`, "without Transport"},
		{"a client that is given its way", checkOneDoor, "pkg/identity/a.go", `package identity; import "net/http"; var c = &http.Client{Transport: t}`, ""},
		{"the door itself", checkOneDoor, "pkg/upstream/a.go", `package upstream; import "net"; var d net.Dialer`, ""},
		{"a protocol's name at home", checkProtocolNames, "pkg/protocol/redis/a.go", `package redis; const name = "redis"`, ""},
		{"an exit", checkExits, "cmd/headgate/run.go", `package main; import "os"; func f() { os.Exit(1) }`, "os.Exit"},
		{"the exit of main", checkExits, "cmd/headgate/main.go", `package main; import "os"; func f() { os.Exit(1) }`, ""},
		{"a new folder", checkLayout, "tools/a.go", `package tools`, "tools: it is not in the layout"},
		{"no package comment", checkPackageComments, "pkg/mask/a.go", `package mask`, "has 0 package comments"},
		{"another package's comment", checkPackageComments, "pkg/mask/a.go", "// Package record is another.\npackage mask", "does not begin"},
		{"an undocumented function", checkDocumented, "pkg/mask/a.go", `package mask; func F() {}`, "F"},
		{"an undocumented method", checkDocumented, "pkg/mask/a.go", "package mask\n\n// T is a type.\ntype T[A any] struct{}\n\nfunc (t *T[A]) M() {}", "M"},
		{"a method nobody sees", checkDocumented, "pkg/mask/a.go", "package mask; type t struct{}; func (t) M() {}", ""},
		{"an undocumented constant", checkDocumented, "pkg/mask/a.go", "package mask; const C = 1", "C"},
		{"a documented group", checkDocumented, "pkg/mask/a.go", "package mask\n\n// The constants.\nconst (\n\tC = 1\n)", ""},
		{"a long function", checkLengths, "pkg/mask/a.go", "package mask\nfunc f() {" + strings.Repeat("\n", maxFunction) + "}", "f has 81 lines"},
		{"a function that just fits", checkLengths, "pkg/mask/a.go", "package mask\nfunc f() {" + strings.Repeat("\n", maxFunction-1) + "}", ""},
		{"a long file", checkLengths, "pkg/mask/a.go", "package mask" + strings.Repeat("\n", maxFile+1), "it has 501 lines"},
		{"a long generated file", checkLengths, "bpf/a.go", "// Code generated by hand. DO NOT EDIT.\npackage bpf" + strings.Repeat("\n", maxFile+1), ""},
		{"many parameters", checkParameters, "pkg/mask/a.go", "package mask; func f(a, b, c int, d, e, f string) {}", "6 parameters"},
		{"an init", checkInit, "pkg/mask/a.go", "package mask; func init() {}", "pkg/mask/a.go:1"},
		{"a sleep", checkSleep, "pkg/mask/a_test.go", `package mask; import "time"; func f() { time.Sleep(1) }`, "time.Sleep"},
		{"a goroutine on its own", checkGuarded, "pkg/protocol/redis/a.go", "package redis; func f() { go f() }", "without protocol.Guard"},
		{"a guarded goroutine", checkGuarded, "pkg/protocol/redis/a.go", "package redis; func f() { go func() { protocol.Guard(g) }() }", ""},
		{"another package name", checkFolders, "pkg/mask/a.go", "package masks", "package masks"},
	} {
		t.Run(test.name, func(t *testing.T) {
			tree, err := load(fstest.MapFS{test.path: {Data: []byte(test.text)}})
			if err != nil {
				t.Fatal(err)
			}
			found := strings.Join(test.check(tree), "\n")
			if test.want == "" && found != "" || !strings.Contains(found, test.want) {
				t.Errorf("found %q, want %q", found, test.want)
			}
		})
	}
}

func TestProtocolNameRuleKnowsTheFolders(t *testing.T) {
	tree, err := load(fstest.MapFS{
		"pkg/protocol/redis/a.go": {Data: []byte(`package redis; const name = "redis"`)},
		"pkg/protocol/all/a.go":   {Data: []byte(`package all; const first = "redis"`)},
		"pkg/gateway/a.go":        {Data: []byte(`package gateway; func f(p string) bool { return p == "redis" }`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	found := checkProtocolNames(tree)
	if len(found) != 1 || !strings.HasPrefix(found[0], "pkg/gateway/a.go") {
		t.Errorf("found %q, want the gateway's use alone", found)
	}
}
