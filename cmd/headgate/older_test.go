package main

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/kernel"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/transparent"
)

// olderSide is a kernel side of which the trees are as told.
type olderSide struct {
	trees []process.ID
	err   error
	ended []kernel.Ended
	asked [][]process.ID
	heard chan struct{}
}

func (s *olderSide) EndOlder(_ context.Context, roots ...process.ID) ([]kernel.Ended, error) {
	s.asked = append(s.asked, roots)
	if s.heard != nil {
		s.heard <- struct{}{}
	}
	return s.ended, s.err
}

func (s *olderSide) Enrolled() ([]kernel.Enrolment, error) {
	var all []kernel.Enrolment
	for _, root := range s.trees {
		all = append(all, kernel.Enrolment{ID: process.ID{PID: root.PID + 1, Start: root.Start}, Root: root})
	}
	return all, nil
}

func rootOf(n int) process.ID { return process.ID{PID: uint32(n), Start: uint64(n)} }

// take does what run would with what waits, and returns it.
func (o *older) take(t *testing.T, s *olderSide) []process.ID {
	t.Helper()
	s.asked = nil
	select {
	case root := <-o.waiting():
		o.end(t.Context(), s, zerolog.Nop(), o.others(root))
	default:
		return nil
	}
	if len(s.asked) != 1 {
		t.Fatalf("asked %d times", len(s.asked))
	}
	return s.asked[0]
}

func TestTreesThatFindNoRoomAreTakenByTheRescan(t *testing.T) {
	var o older
	s := &olderSide{}
	for n := 1; n <= olderRoom+2; n++ {
		s.trees = append(s.trees, rootOf(n))
		o.add(rootOf(n)) // the reader of events would wait here
	}
	if got := o.take(t, s); len(got) != olderRoom {
		t.Errorf("%d trees waited, want %d", len(got), olderRoom)
	}
	var log bytes.Buffer
	o.rest(s, zerolog.New(&log))
	if got := log.String(); !strings.Contains(got, `"trees":2`) {
		t.Errorf("the log says %q", got)
	}
	if got := o.take(t, s); len(got) != 2 {
		t.Errorf("the rescan took %v, want the two that found no room", got)
	}
	o.rest(s, zerolog.Nop())
	if got := o.take(t, s); got != nil {
		t.Errorf("the rescan took %v, which were finished with", got)
	}
}

func TestTreeIsTakenAgainUntilItsOlderConnectionsAreGone(t *testing.T) {
	for _, err := range []error{kernel.ErrObserving, context.Canceled, errors.New("no sock_diag")} {
		var o older
		s := &olderSide{trees: []process.ID{rootOf(1)}, err: err}
		for range 2 {
			o.rest(s, zerolog.Nop())
			if diff := gocmp.Diff([]process.ID{rootOf(1)}, o.take(t, s)); diff != "" {
				t.Errorf("after %v (-want +got):\n%s", err, diff)
			}
		}
		s.err = nil
		o.rest(s, zerolog.Nop())
		o.take(t, s)
		o.rest(s, zerolog.Nop())
		if got := o.take(t, s); got != nil {
			t.Errorf("after %v and success, %v once more", err, got)
		}
	}
}

func TestTreesThatAreGoneAreForgotten(t *testing.T) {
	var o older
	s := &olderSide{trees: []process.ID{rootOf(1), rootOf(2)}}
	o.rest(s, zerolog.Nop())
	o.take(t, s)
	s.trees = s.trees[:1]
	o.rest(s, zerolog.Nop())
	if diff := gocmp.Diff(map[process.ID]bool{rootOf(1): true}, o.done); diff != "" {
		t.Errorf("remembered (-want +got):\n%s", diff)
	}
}

func TestEndedConnectionsAreInTheLog(t *testing.T) {
	var o older
	to := netip.MustParseAddrPort("192.0.2.7:5432")
	s := &olderSide{heard: make(chan struct{})}
	for range olderNamed + 1 {
		s.ended = append(s.ended, kernel.Ended{Process: rootOf(7), Transport: transparent.TCP, Remote: to})
	}
	var log bytes.Buffer
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		o.run(ctx, s, zerolog.New(&log))
	}()
	o.add(rootOf(7))
	<-s.heard
	stop()
	<-ended
	for _, want := range []string{`"pid":7`, `"connections":9`, `192.0.2.7:5432`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s: %s", want, &log)
		}
	}
	if n := strings.Count(log.String(), to.String()); n != olderNamed {
		t.Errorf("the log names %d connections, want %d", n, olderNamed)
	}
}
