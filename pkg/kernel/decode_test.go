package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/transparent"
)

func record(t testing.TB, h bpf.HeadgateEventHeader, path, argv string) []byte {
	t.Helper()
	h.PathLen, h.ArgvLen = uint32(len(path)), uint32(len(argv))
	b, err := binary.Append(nil, binary.NativeEndian, h)
	must(t, err)
	return append(append(b, path...), argv...)
}

func TestExecEventTellsPathAndArguments(t *testing.T) {
	b := record(t, bpf.HeadgateEventHeader{
		Kind: bpf.HeadgateEventKindEVENT_EXEC, Flags: bpf.HeadgateEventFlagsEVENT_HAS_IMAGE,
		Time: 50, ExecTime: 50, Tgid: 7, Start: 40, RootTgid: 5, RootStart: 30, ParentTgid: 6, ParentStart: 35,
		Uid: 1000, Cgroup: 99, Inode: 123, Device: 259<<20 | 300, Enrolment: 77,
	}, "psql\x00bin\x00usr\x00", "psql\x00-c\x00\x00")
	got, cut, err := decodeEvent(b)
	must(t, err)
	want := process.Event{
		Kind: process.Exec, Time: 50,
		ID: process.ID{PID: 7, Start: 40}, Parent: process.ID{PID: 6, Start: 35}, Root: process.ID{PID: 5, Start: 30},
		UID: 1000, Cgroup: 99, Enrolment: 77,
		Image: &process.Image{
			Exec: 50, Exe: "/usr/bin/psql", Device: unix.Mkdev(259, 300), Inode: 123,
			Argv: []string{"psql", "-c", ""},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" || cut {
		t.Errorf("cut %v, event (-want +got):\n%s", cut, diff)
	}
	for i := range b {
		if _, _, err := decodeEvent(b[:i]); !errors.Is(err, errMalformed) {
			t.Fatalf("the first %d bytes are an event: %v", i, err)
		}
	}
}

func TestForkEventNamesTheInheritedImage(t *testing.T) {
	got, _, err := decodeEvent(record(t, bpf.HeadgateEventHeader{Kind: bpf.HeadgateEventKindEVENT_FORK, ExecTime: 50}, "", ""))
	must(t, err)
	if got.Kind != process.Fork || got.Image == nil || got.Image.Exec != 50 {
		t.Errorf("got %+v", got)
	}
}

func TestEventOfAnotherKindIsMalformed(t *testing.T) {
	for _, kind := range []bpf.HeadgateEventKind{0, bpf.HeadgateEventKindEVENT_ALIVE, 77} {
		if _, _, err := decodeEvent(record(t, bpf.HeadgateEventHeader{Kind: kind}, "", "")); !errors.Is(err, errMalformed) {
			t.Errorf("kind %d: %v", kind, err)
		}
	}
}

func TestEventWithoutAnImageOrWithACutPathAsksForMore(t *testing.T) {
	enrol := bpf.HeadgateEventHeader{Kind: bpf.HeadgateEventKindEVENT_ENROL}
	if _, cut, err := decodeEvent(record(t, enrol, "", "")); err != nil || !cut {
		t.Errorf("an event without an image is complete (%v)", err)
	}
	enrol.Flags = bpf.HeadgateEventFlagsEVENT_HAS_IMAGE | bpf.HeadgateEventFlagsEVENT_PATH_CUT
	ev, cut, err := decodeEvent(record(t, enrol, "./run\x00", ""))
	if err != nil || !cut || ev.Image.Exe != "./run" {
		t.Errorf("event %+v, cut %v, %v", ev.Image, cut, err)
	}
}

func FuzzDecodeEvent(f *testing.F) {
	exec := bpf.HeadgateEventHeader{Kind: bpf.HeadgateEventKindEVENT_EXEC, Flags: bpf.HeadgateEventFlagsEVENT_HAS_IMAGE}
	f.Add(record(f, exec, "psql\x00bin\x00", "psql\x00"))
	f.Add(record(f, exec, "\x00", "\x00\x00"))
	f.Add(record(f, exec, "a", "b"))
	f.Add(bytes.Repeat([]byte{0xff}, headerSize+8))
	f.Fuzz(func(t *testing.T, b []byte) {
		ev, _, err := decodeEvent(b)
		if err != nil {
			return
		}
		if ev.Kind == 0 {
			t.Error("an event of no kind")
		}
		if ev.Image != nil && len(ev.Image.Exe)+len(strings.Join(ev.Image.Argv, "")) > len(b) {
			t.Error("the image is larger than the record")
		}
	})
}

func TestOriginIsReadInNetworkByteOrder(t *testing.T) {
	words := func(a string) (w [4]uint32) {
		b := netip.MustParseAddr(a).As16()
		for i := range w {
			w[i] = binary.NativeEndian.Uint32(b[4*i:])
		}
		return w
	}
	tests := []struct {
		addr   string
		family uint16
		want   string
		mapped bool
	}{
		{"::ffff:198.51.100.7", unix.AF_INET, "198.51.100.7:5432", false},
		{"::ffff:198.51.100.7", unix.AF_INET6, "198.51.100.7:5432", true},
		{"2001:db8::7", unix.AF_INET6, "[2001:db8::7]:5432", false},
	}
	for _, tt := range tests {
		got := origin(&bpf.HeadgateOrigin{Addr: words(tt.addr), Family: tt.family, Port: 0x3815}) // 5432, swapped
		if got.Target.String() != tt.want || got.Mapped != tt.mapped {
			t.Errorf("origin %v mapped %v, want %s mapped %v", got.Target, got.Mapped, tt.want, tt.mapped)
		}
	}
}

func TestNilKernelKnowsNoOrigin(t *testing.T) {
	var k *Kernel
	if o, err := k.Origin(nil); !errors.Is(err, ErrNoOrigin) || o != (transparent.Origin{}) {
		t.Errorf("origin %+v, %v", o, err)
	}
}

func TestStartTimeIsFieldTwentyTwo(t *testing.T) {
	tests := []struct {
		stat string
		want uint64
		ok   bool
	}{
		{"7 (sh) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 1234 0 0", 1234 * tick, true},
		{"7 (a) b) (c) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 99 0 0", 99 * tick, true},
		{"7 (sh) S 1 7", 0, false},
		{"7 sh S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 1234 0 0", 0, false},
		{"7 (sh) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 18446744073709551615 0", 0, false},
		{"7 (sh) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 x 0", 0, false},
	}
	for _, tt := range tests {
		got, err := startTime([]byte(tt.stat))
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("startTime(%q) = %d, %v", tt.stat, got, err)
		}
	}
}

func TestSameStartToleratesTheRoundingOfProcOnly(t *testing.T) {
	exact := uint64(123*tick + 4_567_890)
	if !SameStart(exact, 123*tick) || !SameStart(123*tick, exact) {
		t.Error("the rounded time is another")
	}
	if SameStart(exact, 122*tick) || SameStart(exact, 124*tick) {
		t.Error("a time of another tick is the same")
	}
}

func TestSeedsPutParentsBeforeChildren(t *testing.T) {
	procs := make(map[process.ID]Enrolment)
	pid := func(n uint32) process.ID { return process.ID{PID: n, Start: uint64(n)} }
	for n := uint32(1); n < 50; n++ {
		// Each is the child of the next; 50 is not among them.
		procs[pid(n)] = Enrolment{ID: pid(n), Parent: pid(n + 1)}
	}
	for i, e := range parentsFirst(procs) {
		if e.ID != pid(49-uint32(i)) {
			t.Fatalf("place %d is taken by %v", i, e.ID)
		}
	}
	// Nonsense from a damaged map must not hang.
	loop := map[process.ID]Enrolment{pid(1): {ID: pid(1), Parent: pid(2)}, pid(2): {ID: pid(2), Parent: pid(1)}}
	if n := len(parentsFirst(loop)); n != 2 {
		t.Errorf("%d processes of 2", n)
	}
}

func TestMetadataDestinationsDenyEveryPort(t *testing.T) {
	list := MetadataDestinations()
	if len(list) != 2*5 {
		t.Errorf("%d addresses", len(list))
	}
	for _, d := range list {
		if d.Verdict != Deny || d.Port != 0 || !d.Prefix.IsSingleIP() || d.Cause != MetadataOnly {
			t.Errorf("%+v", d)
		}
	}
}

func TestDestinationWithoutAPrefixOrVerdictIsRefused(t *testing.T) {
	for _, d := range []Destination{
		{},
		{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Verdict: 9},
		{Prefix: netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.1"), 128)},
	} {
		if _, err := d.value(); err == nil {
			t.Errorf("%+v is accepted", d)
		}
	}
	if v, err := (Destination{Prefix: netip.MustParsePrefix("10.0.0.0/8")}).value(); err != nil || v.Verdict != bpf.HeadgateVerdictVERDICT_DENY {
		t.Errorf("the zero verdict is %d, %v", v, err)
	}
}
