package main

import (
	"os"
	"os/exec"
	"testing"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/control"
	"github.com/headgate/headgate/pkg/kernel"
)

// The pid of a caller may be another's by the time that it is asked about: only
// the very process that is meant is taken, and only if it is the caller's user's.
func TestOnlyTheCallersOwnProcessIsTaken(t *testing.T) {
	child := exec.Command("cat")
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid, uid := uint32(child.Process.Pid), uint32(os.Getuid())
	start, err := kernel.ProcStart(child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	const second = 1_000_000_000
	for _, c := range []struct {
		name string
		by   control.Caller
		req  control.EnrolRequest
		ok   bool
	}{
		{"its user", control.Caller{PID: pid, UID: uid}, control.EnrolRequest{PID: pid, Start: start}, true},
		{"root", control.Caller{PID: 1, UID: 0}, control.EnrolRequest{PID: pid, Start: start}, true},
		{"another user", control.Caller{PID: pid, UID: uid + 1}, control.EnrolRequest{PID: pid, Start: start}, false},
		{"an earlier process of that pid", control.Caller{PID: pid, UID: uid}, control.EnrolRequest{PID: pid, Start: start - second}, false},
		{"nobody", control.Caller{PID: pid, UID: uid}, control.EnrolRequest{PID: 1 << 30, Start: start}, false},
	} {
		if err := mayTake(c.by, c.req); (err == nil) != c.ok {
			t.Errorf("%s: %v, want taken=%v", c.name, err, c.ok)
		}
	}
	if err := stdin.Close(); err != nil {
		t.Error(err)
	}
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}

// Who asked is the kernel's word, not the request's.
func TestTheRecordSaysWhoAskedForAnEnrolment(t *testing.T) {
	for want, by := range map[string]control.Caller{audit.HowRun: {PID: 42, UID: 1000}, audit.HowEnrol: {PID: 43}} {
		if got := howAsked(by, control.EnrolRequest{PID: 42}); got != want {
			t.Errorf("%v asked for pid 42: %q, want %q", by, got, want)
		}
	}
}
