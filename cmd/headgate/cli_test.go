package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/transparent"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"headgate": main})
}

// TestStories plays the command line's stories in testdata/cli.
func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("..", "..", "testdata", "cli"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"record": makeRecord, "edit": editRecord, "trials": makeTrials},
	})
}

// makeRecord is "record STATE", which makes a state directory with one denied session, and sets
// SESSION to its id.
func makeRecord(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	log, err := audit.OpenLog(dir, audit.Options{})
	ts.Check(err)
	id := audit.NewSessionID(time.Now())
	root := process.ID{PID: 42, Start: 1}
	op := policy.Operation{Protocol: "postgres", Verb: "ddl", Effects: []string{"ddl", "drop"}, Text: "DROP TABLE t"}
	decision := audit.DecisionOf(&op, policy.Decision{Rule: "no-drops", Reason: policy.ReasonRule})
	decision.Session, decision.Op = id, id+"-1"
	ts.Check(log.Append(audit.KindSessionOpen, audit.SessionOpen{
		Session: id, Agent: "agent-under-test",
		Origin:  transparent.Origin{Target: netip.MustParseAddrPort("192.0.2.1:5432"), Process: root, Root: root},
		Lineage: []audit.Process{{ID: root, Exe: "/usr/bin/psql", Argv: []string{"psql"}}},
	}))
	ts.Check(log.Append(audit.KindDecision, decision))
	ts.Check(log.Append(audit.KindSessionEnd, audit.SessionEnd{Session: id, Reason: "done"}))
	ts.Check(log.Close())
	ts.Setenv("SESSION", id)
}

// editRecord is "edit STATE OLD NEW", which changes the audit log as somebody with an editor would.
func editRecord(ts *testscript.TestScript, _ bool, args []string) {
	name := filepath.Join(ts.MkAbs(args[0]), "audit", "000001.log")
	text, err := os.ReadFile(name)
	ts.Check(err)
	ts.Check(os.WriteFile(name, []byte(strings.Replace(string(text), args[1], args[2], 1)), 0o600))
}
