package audit

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/record"
)

func someFrames() []Frame {
	return []Frame{
		{Op: "1", Direction: Up, Kind: FrameOperation, Text: "SELECT id,\n  name FROM users"},
		{Op: "1", Direction: Down, Kind: FrameColumns, Columns: []string{"id", "name"}},
		{Op: "1", Direction: Down, Kind: FrameRows, Rows: [][]*string{{str("1"), str("ann")}, {str("2"), nil}}},
		{Op: "1", Direction: Down, Kind: FrameData, Data: []byte("\xff\x00")},
		{Op: "1", Direction: Down, Kind: FrameTag, Text: "SELECT 2"},
	}
}

func TestFramesComeBackAsTheyWere(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{Now: clock()})
	mustRecord(t, l, "a1", someFrames()...)
	d, err := Session(state, "a1")
	if err != nil || d.Recording != nil {
		t.Fatal(err, d.Recording)
	}
	var got []Frame
	for _, f := range d.Frames {
		if f.T <= 0 {
			t.Errorf("frame %d is at %d ms", f.Seq, f.T)
		}
		f.T = 0
		got = append(got, f.Frame)
	}
	if diff := cmp.Diff(someFrames(), got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestNothingIsCreatedBeforeTheFirstFrame(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	mustRecord(t, l, "a1")
	if _, err := os.Stat(filepath.Join(state, sessionsDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sessions: %v", err)
	}
	if r := mustVerify(t, state); !r.OK() || r.Recordings != 0 || r.Sessions != 1 {
		t.Errorf("verify: %+v", r)
	}
}

func TestFirstFramesWaitForEachOtherAndNoLonger(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	mustAppend(t, l, KindSessionOpen, opening("a1"))
	r, err := l.Record("a1")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range someFrames() {
		if err := r.Append(f); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(state, sessionsDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sessions: %v", err)
	}
	for { // until the test's own deadline
		if d, err := Session(state, "a1"); err == nil && len(d.Frames) == len(someFrames()) {
			break
		}
	}
	if err := r.Append(Frame{Kind: FrameTag, Text: "more"}); err != nil {
		t.Error(err)
	}
	anchor, err := r.Close()
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, KindSessionEnd, SessionEnd{Session: "a1", Reason: "done", Recording: anchor})
	d, err := Session(state, "a1")
	if err != nil || len(d.Frames) != len(someFrames())+1 || d.Recording != nil {
		t.Errorf("%v, %+v", err, d)
	}
}

func TestManyFirstFramesDoNotWait(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	r, err := l.Record("a1")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 2 {
		if err := r.Append(Frame{Kind: FrameData, Text: strings.Repeat("x", heldBytes/2)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(state, sessionsDir, "a1", "000001.log")); err != nil {
		t.Error(err)
	}
}

func TestLongFramesAreSplitWithoutLoss(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	// The bound falls into the middle of an é.
	text := "xx" + strings.Repeat("aé\x01", 100<<10)
	data := bytes.Repeat([]byte{0xff, 0x00, 0x1b}, 100<<10)
	var rows [][]*string
	for range 300 {
		rows = append(rows, []*string{str(strings.Repeat("\x02", 1000)), nil})
	}
	wide := make([]*string, 20000)
	long := []*string{str(strings.Repeat("x", 2<<20)), str("y")}
	mustRecord(t, l, "a1",
		Frame{Kind: FrameOperation, Text: text},
		Frame{Kind: FrameData, Data: data},
		Frame{Kind: FrameRows, Text: text[:40001], Columns: []string{strings.Repeat("c", 20000)}, Data: data[:40000], Rows: rows},
		Frame{Kind: FrameRows, Rows: [][]*string{long, {str("after")}}},
		Frame{Kind: FrameRows, Rows: [][]*string{wide}},
	)
	if len(*long[0]) != 2<<20 {
		t.Error("the caller's row was changed")
	}
	d, err := Session(state, "a1")
	if err != nil || d.Recording != nil {
		t.Fatal(err, d.Recording)
	}
	var gotText strings.Builder
	var gotData []byte
	var gotRows, cut int
	for _, f := range d.Frames {
		if !utf8.ValidString(f.Text) {
			t.Error("a rune was split")
		}
		gotText.WriteString(f.Text)
		gotData = append(gotData, f.Data...)
		gotRows += len(f.Rows)
		if f.Cut {
			cut++
		}
	}
	if gotText.String() != text+text[:40001] {
		t.Errorf("%d bytes of text", gotText.Len())
	}
	if !bytes.Equal(gotData, append(bytes.Clone(data), data[:40000]...)) {
		t.Errorf("%d bytes of data", len(gotData))
	}
	if gotRows != 303 {
		t.Errorf("%d rows", gotRows)
	}
	if cut == 0 || d.Frames[len(d.Frames)-1].Cut == false {
		t.Errorf("%d frames are marked as cut", cut)
	}
}

func TestRecordingStopsAtItsBoundAndSaysSo(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{RecordingBytes: 10_000})
	var frames []Frame
	for range 100 {
		frames = append(frames, Frame{Kind: FrameData, Text: strings.Repeat("x", 1000)})
	}
	mustRecord(t, l, "a1", frames...)
	d, err := Session(state, "a1")
	if err != nil || d.Recording != nil {
		t.Fatal(err, d.Recording)
	}
	if n := len(d.Frames); n < 5 || n > 10 || d.Frames[n-1].Kind != FrameTruncated {
		t.Errorf("%d frames, the last a %s", n, d.Frames[n-1].Kind)
	}
	if !d.Summary.End.Recording.Truncated {
		t.Error("the anchor does not say that the recording is truncated")
	}
}

func TestEditedRecordingsAreFound(t *testing.T) {
	for name, edit := range map[string]func(t *testing.T, state, dir string){
		"changed": func(t *testing.T, _, dir string) {
			mustEdit(t, filepath.Join(dir, "000001.log"), "ann", "bob")
		},
		"removed": func(t *testing.T, _, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		},
		"last line cut": func(t *testing.T, _, dir string) {
			path := filepath.Join(dir, "000001.log")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			mustTruncate(t, path, int64(bytes.LastIndexByte(b[:len(b)-1], '\n')+1))
		},
		"last line torn": func(t *testing.T, _, dir string) {
			mustTear(t, filepath.Join(dir, "000001.log"))
		},
		"prolonged": func(t *testing.T, _, dir string) {
			mustForge(t, dir, Frame{Kind: FrameTag, Text: "more"})
		},
		"written anew with a good chain": func(t *testing.T, _, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			mustForge(t, dir, someFrames()...)
		},
		"exchanged with another": func(t *testing.T, state, dir string) {
			other := filepath.Join(state, sessionsDir, "b2")
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(dir, os.DirFS(other)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			l := mustOpen(t, state, Options{})
			mustRecord(t, l, "a1", someFrames()...)
			mustRecord(t, l, "b2", someFrames()...)
			if r := mustVerify(t, state); !r.OK() || r.Recordings != 2 {
				t.Fatalf("before: %+v", r)
			}
			edit(t, state, filepath.Join(state, sessionsDir, "a1"))
			r := mustVerify(t, state)
			if len(r.Problems) != 1 || r.Problems[0].Session != "a1" {
				t.Errorf("problems %v", r.Problems)
			}
			if err := VerifySession(state, "a1"); !errors.Is(err, ErrRecording) && !errors.Is(err, record.ErrBroken) {
				t.Errorf("verify a1: %v", err)
			}
			if err := VerifySession(state, "b2"); err != nil {
				t.Errorf("verify b2: %v", err)
			}
			d, err := Session(state, "a1")
			if err != nil || d.Recording == nil {
				t.Fatalf("session: %v", err)
			}
			var out strings.Builder
			if err := Play(&out, d, PlayOptions{}); err != nil || !strings.Contains(out.String(), "RECORDING NOT INTACT") {
				t.Errorf("played as if nothing was wrong: %v\n%s", err, out.String())
			}
		})
	}
}

func mustTruncate(tb testing.TB, path string, size int64) {
	tb.Helper()
	if err := os.Truncate(path, size); err != nil {
		tb.Fatal(err)
	}
}

// mustForge appends frames with a valid chain, as one can who has write access.
func mustForge(tb testing.TB, dir string, frames ...Frame) {
	tb.Helper()
	log, _, err := record.Open(dir, record.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range frames {
		if _, err := log.Append(kindFrame, f); err != nil {
			tb.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		tb.Fatal(err)
	}
}

func TestStrangeRecordingsAndEventsAreFound(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	mustRecord(t, l, "a1")
	mustForge(t, filepath.Join(state, sessionsDir, "a1"), someFrames()...)   // never anchored
	mustForge(t, filepath.Join(state, sessionsDir, "zzz9"), someFrames()...) // no such session
	mustAppend(t, l, KindSessionEnd, SessionEnd{Session: "a1"})              // a second end
	mustAppend(t, l, KindDecision, decision("nobody", "1", "x", policy.Allow))
	r := mustVerify(t, state)
	var got []string
	for _, p := range r.Problems {
		got = append(got, p.String())
	}
	want := []string{
		`session "a1": ended twice`,
		`session "nobody": decision without a session_open`,
		`session "a1": recording is not what was recorded: 5 entries, but none were anchored`,
		`session "zzz9": recording of a session that the audit log does not know`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestRunningSessionsAreNoProblem(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	mustAppend(t, l, KindSessionOpen, opening("a1"))
	r, err := l.Record("a1")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Append(someFrames()[0]); err != nil {
		t.Fatal(err)
	}
	r.lapse()
	if r := mustVerify(t, state); !r.OK() || r.Open != 1 {
		t.Errorf("verify: %+v", r)
	}
	d, err := Session(state, "a1")
	if err != nil || len(d.Frames) != 1 || d.Recording != nil {
		t.Errorf("%v, %+v", err, d)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPlayShowsATimeline(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{Now: clock()})
	mustRecord(t, l, "a1", someFrames()...)
	d, err := Session(state, "a1")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := Play(&out, d, PlayOptions{}); err != nil {
		t.Fatal(err)
	}
	head := d.Summary.End.Recording.Head
	want := `session    a1
opened     2026-03-04T05:06:07.003Z
agent      ci
principal  corp:alice
target     192.0.2.1:5432 (billing)
protocol   sql
process    /usr/bin/tool  pid 11  uid 7  tool --password [redacted] x=1
started by /bin/sh  pid 10  uid 7  sh -c deploy

    +0.001s  allowed   #1 select  rule: readers  reason: rule
                       > SELECT 1
    +0.004s  operation #1
                       > SELECT id,
                       >   name FROM users
    +0.006s  columns   #1
                       < id | name
    +0.008s  rows      #1
                       < 1 | ann
                       < 2 | NULL
    +0.010s  data      #1
                       < \xff\x00
    +0.012s  tag       #1
                       < SELECT 2
    +0.013s  result    #1 ok  2 rows  99 bytes  1 masked  SELECT 2
    +0.014s  end       closed  10 bytes up  20 bytes down

recording intact: 5 entries, head ` + head + "\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestNothingPlayedCanDriveATerminal(t *testing.T) {
	hostile := "\x1b]0;owned\x07\x1b[2J\r\x08\u009b31m\u202e\u200b\x7f\xff\x9b\U000e0001"
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	open := opening("a1")
	open.Agent, open.Principal.Subject, open.Protocol, open.Resource = hostile, hostile, hostile, hostile
	open.Lineage[0].Exe, open.Lineage[0].Argv = hostile, []string{hostile}
	mustAppend(t, l, KindSessionOpen, open)
	d := decision("a1", hostile, hostile, policy.Deny)
	d.Message, d.Rule, d.Operation.Verb, d.Operation.Parameters = hostile, hostile, hostile, []string{hostile}
	mustAppend(t, l, KindDecision, d)
	mustAppend(t, l, "other", map[string]string{"session": "a1", "x": hostile})
	r, err := l.Record("a1")
	if err != nil {
		t.Fatal(err)
	}
	err = r.Append(Frame{Op: hostile, Direction: hostile, Kind: hostile, Text: hostile + "\nrecording intact", Data: []byte(hostile),
		Columns: []string{hostile}, Rows: [][]*string{{&hostile}}})
	if err != nil {
		t.Fatal(err)
	}
	anchor, err := r.Close()
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, KindResult, Result{Session: "a1", Op: hostile, Outcome: hostile, Tag: hostile, Code: hostile, Error: hostile})
	mustAppend(t, l, KindSessionEnd, SessionEnd{Session: "a1", Reason: hostile, Error: hostile, Stage: hostile, Recording: anchor})

	detail, err := Session(state, "a1")
	if err != nil {
		t.Fatal(err)
	}
	detail.Recording = errors.New(hostile)
	var out strings.Builder
	if err := Play(&out, detail, PlayOptions{}); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		line = strings.TrimSuffix(line, "\n")
		if needsEscape(strings.ReplaceAll(line, "…", "")) && Escape(line) != line {
			t.Errorf("%q can drive a terminal", line)
		}
		if strings.HasPrefix(line, "recording intact") {
			t.Error("a frame passes for the verdict on the recording")
		}
	}
	if !strings.Contains(out.String(), `\x1b]0;owned\x07`) {
		t.Errorf("the escape is not shown:\n%s", out.String())
	}
}

func TestPlayIsBounded(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{})
	mustRecord(t, l, "a1", Frame{Kind: FrameData, Text: strings.Repeat("x", 10000)}, Frame{Kind: FrameRows, Rows: make([][]*string, 60)})
	d, err := Session(state, "a1")
	if err != nil {
		t.Fatal(err)
	}
	var short, whole strings.Builder
	if err := errors.Join(Play(&short, d, PlayOptions{}), Play(&whole, d, PlayOptions{MaxText: -1, MaxRows: -1})); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"… (5904 bytes more)", "… (10 rows more)"} {
		if !strings.Contains(short.String(), want) {
			t.Errorf("no %q in\n%s", want, short.String())
		}
		if strings.Contains(whole.String(), want) {
			t.Errorf("%q in what has no bounds", want)
		}
	}
	if err := Play(brokenPipe{}, d, PlayOptions{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("write error: %v", err)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, os.ErrClosed }

func FuzzEscape(f *testing.F) {
	f.Add("a\u009b\x1b\xff\u202e\n")
	f.Fuzz(func(t *testing.T, s string) {
		e := Escape(s)
		if Escape(e) != e || !utf8.ValidString(e) {
			t.Errorf("%q became %q", s, e)
		}
		for _, r := range e {
			if r < ' ' || r >= 0x7f && r <= 0x9f || r == '\u202e' {
				t.Errorf("%q holds %U", e, r)
			}
		}
	})
}

func FuzzRedactArgv(f *testing.F) {
	f.Add("x --password=a 'b", "--token")
	f.Fuzz(func(t *testing.T, a, b string) {
		if got := RedactArgv([]string{"x", a, b}); len(got) != 3 {
			t.Errorf("%q", got)
		}
	})
}
