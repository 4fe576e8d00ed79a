package gateway

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/protocol"
)

func TestSessionWhoseRecordingCannotBeCreatedEnds(t *testing.T) {
	r := newRig(t, func(ctx context.Context, s *protocol.Session) error {
		if err := s.Record(protocol.Frame{Kind: protocol.FrameTable, Columns: []string{"a"}}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Second):
			return errors.New("nobody ended the session")
		}
	})
	r.Opaque = named{line{}}
	if err := os.WriteFile(filepath.Join(r.state, "sessions"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// The second one finds that the first one's could not be created.
	for range 2 {
		if _, err := r.connect(originTo("192.0.2.1:7000"), "read\n"); !errors.Is(err, audit.ErrNoAudit) {
			t.Errorf("the session ended with %v", err)
		}
		if end := r.session().Summary.End; end == nil || end.Reason != endError || end.RecordingError == "" {
			t.Errorf("the record says %+v", end)
		}
	}
}

func TestNobodyRecordsWhatNobodyLooksInto(t *testing.T) {
	finding := protocol.Frame{Kind: protocol.FrameFinding, Finding: &protocol.Finding{Kind: protocol.FindingHoldsSecret, Credential: "c"}}
	for _, found := range []bool{false, true} {
		r := newRig(t, func(_ context.Context, s *protocol.Session) error {
			err := s.Record(protocol.Frame{Kind: protocol.FrameNotice, Text: "passed on"})
			if found {
				err = errors.Join(err, s.Record(finding))
			}
			return errors.Join(err, s.Record(protocol.Frame{Kind: protocol.FrameResult, Outcome: &protocol.Outcome{Bytes: 7}}))
		})
		if _, err := r.connect(originTo("192.0.2.1:7000"), "read\n"); err != nil {
			t.Fatal(err)
		}
		detail := r.session()
		if has := detail.Summary.End.Recording != nil; has != found || len(detail.Frames) > 0 != found {
			t.Errorf("with a finding: %v; there is a recording: %v, of %d frames", found, has, len(detail.Frames))
		}
		results := 0
		for _, e := range detail.Events {
			if e.Kind == audit.KindResult {
				results++
			}
		}
		if results != 1 {
			t.Errorf("%d results are in the audit log", results)
		}
	}
}

func TestHowAnOperationEndedIsWrittenOnce(t *testing.T) {
	long := strings.Repeat("x", audit.MaxWord+1)
	for _, c := range []struct {
		outcome protocol.Outcome
		frames  int
	}{
		{protocol.Outcome{Tag: "SELECT 1", Rows: 1}, 0},
		{protocol.Outcome{Tag: long}, 1},
		{protocol.Outcome{Code: "42P01", Error: "there is no such table"}, 0},
		{protocol.Outcome{Code: "42P01", Error: long}, 1},
		{protocol.Outcome{Tag: "SELECT \xff\xfe"}, 1},
	} {
		r := newRig(t, func(_ context.Context, s *protocol.Session) error {
			return s.Record(protocol.Frame{Op: "1", Kind: protocol.FrameResult, Outcome: &c.outcome})
		})
		r.Opaque = named{line{}}
		if _, err := r.connect(originTo("192.0.2.1:7000"), "read\n"); err != nil {
			t.Fatal(err)
		}
		detail := r.session()
		if len(detail.Frames) != c.frames || (detail.Summary.End.Recording != nil) != (c.frames > 0) {
			t.Errorf("%.40v: the recording has %d frames, want %d; anchor %+v", c.outcome.Code+c.outcome.Tag, len(detail.Frames), c.frames, detail.Summary.End.Recording)
		}
		var played strings.Builder
		if err := audit.Play(&played, detail, audit.PlayOptions{MaxText: -1}); err != nil {
			t.Fatal(err)
		}
		for _, said := range []string{c.outcome.Tag, c.outcome.Code, c.outcome.Error} {
			if !strings.Contains(played.String(), audit.Escape(said)) {
				t.Errorf("%.30q is not played", said)
			}
		}
	}
}

// named is a protocol of another name.
type named struct{ protocol.Protocol }

func (named) Name() string { return "opaque" }
