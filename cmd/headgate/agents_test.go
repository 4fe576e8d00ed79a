package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/process"
)

// A tree may be over before its beginning is read: the event alone tells who it was.
func TestTheRecordOfANewTreeIsMadeOfTheEvent(t *testing.T) {
	id := process.ID{PID: 1 << 30, Start: 7}
	ev := process.Event{Kind: process.Enrol, ID: id, Root: id, Enrolment: 99, UID: 1000, Image: &process.Image{Exe: "/bin/sh", Argv: []string{"sh", "-c", "true"}}}
	want := audit.Enrol{Agent: "ci", Enrolment: 99, Root: id, How: audit.HowRule, Process: &audit.Process{ID: id, Exe: "/bin/sh", Argv: []string{"sh", "-c", "true"}, UID: 1000}}
	if diff := cmp.Diff(want, enrolOf(ev, "ci")); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	ev.Image = &process.Image{}
	want.Process = nil
	if diff := cmp.Diff(want, enrolOf(ev, "ci")); diff != "" {
		t.Errorf("without an image: -want +got\n%s", diff)
	}
}
