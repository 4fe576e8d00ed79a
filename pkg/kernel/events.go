package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
	"github.com/headgate/headgate/pkg/process"
)

// errMalformed is for a record that our own programs cannot have written.
var errMalformed = errors.New("malformed event")

// Observer is told what happens. Its functions must not block for long: when the
// buffer is full, events are lost and counted ("events_lost"), lineages become
// partial, and new cgroups go unseen. An error ends [Kernel.Events].
type Observer struct {
	// Process is told of enrolled processes.
	Process func(process.Event) error
	// Cgroup is told of new cgroups, while [Kernel.WatchCgroups] is on: the
	// number, and the path below the root of the hierarchy.
	Cgroup func(id uint64, path string) error
}

// Events tells o what happens, in order, until ctx ends or o fails, and returns
// ctx's or o's error. Events that no daemon read are delivered first. Only one
// call may run at a time.
func (k *Kernel) Events(ctx context.Context, o Observer) error {
	if !k.reading.TryLock() {
		return errors.New("read events: somebody else does")
	}
	defer k.reading.Unlock()
	return readRing(ctx, k.maps.Events, func(record []byte) error { return k.tell(o, record) })
}

// readRing calls f with each record of a ring buffer until ctx ends or f fails,
// and returns ctx's or f's error. A record is valid until f returns.
func readRing(ctx context.Context, m *ebpf.Map, f func(record []byte) error) error {
	r, err := ringbuf.NewReader(m)
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() {
		// The reader is closed by both; the second time that is no error.
		_ = r.Close()
	})
	defer stop()

	var record ringbuf.Record
	for {
		if err := r.ReadInto(&record); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("read events: %w", err)
		}
		if err := f(record.RawSample); err != nil {
			return err
		}
	}
}

func (k *Kernel) tell(o Observer, record []byte) error {
	if id, path, ok := decodeCgroup(record); ok {
		return o.Cgroup(id, path)
	}
	ev, cut, err := decodeEvent(record)
	if err != nil {
		k.malformed.Add(1)
		return nil
	}
	if cut {
		complete(&ev)
	}
	return o.Process(ev)
}

// decodeCgroup reads the record of a new cgroup; ok is false for any other.
func decodeCgroup(b []byte) (id uint64, path string, ok bool) {
	var h bpf.HeadgateEventHeader
	if _, err := binary.Decode(b, binary.NativeEndian, &h); err != nil || h.Kind != bpf.HeadgateEventKindEVENT_CGROUP {
		return 0, "", false
	}
	b = b[headerSize:]
	b = b[:min(uint64(h.PathLen), uint64(len(b)))]
	return h.Cgroup, string(bytes.TrimRight(b, "\x00")), true
}

var headerSize = binary.Size(bpf.HeadgateEventHeader{})

// decodeEvent reads a record of the ring buffer; cut says that the kernel could
// not give the executable. Paths and arguments in it are the agents' own, but
// the lengths are the kernel's. Nothing of b is kept.
func decodeEvent(b []byte) (ev process.Event, cut bool, err error) {
	var h bpf.HeadgateEventHeader
	if _, err := binary.Decode(b, binary.NativeEndian, &h); err != nil {
		return process.Event{}, false, errMalformed
	}
	b = b[headerSize:]
	if uint64(h.PathLen)+uint64(h.ArgvLen) > uint64(len(b)) {
		return process.Event{}, false, errMalformed
	}
	ev = process.Event{
		Time:      h.Time,
		ID:        process.ID{PID: h.Tgid, Start: h.Start},
		Parent:    process.ID{PID: h.ParentTgid, Start: h.ParentStart},
		Root:      process.ID{PID: h.RootTgid, Start: h.RootStart},
		Enrolment: h.Enrolment,
		UID:       h.Uid,
		Cgroup:    h.Cgroup,
		Netns:     h.Netns,
	}
	switch h.Kind {
	case bpf.HeadgateEventKindEVENT_FORK:
		ev.Kind = process.Fork
		ev.Image = &process.Image{Exec: h.ExecTime}
		return ev, false, nil
	case bpf.HeadgateEventKindEVENT_EXIT:
		ev.Kind = process.Exit
		return ev, false, nil
	case bpf.HeadgateEventKindEVENT_EXEC:
		ev.Kind = process.Exec
	case bpf.HeadgateEventKindEVENT_ENROL:
		ev.Kind = process.Enrol
	default:
		return process.Event{}, false, errMalformed
	}
	ev.Image = decodeImage(&h, b[:h.PathLen], b[h.PathLen:h.PathLen+h.ArgvLen])
	return ev, h.Flags&bpf.HeadgateEventFlagsEVENT_HAS_IMAGE == 0 ||
		h.Flags&bpf.HeadgateEventFlagsEVENT_PATH_CUT != 0, nil
}

func decodeImage(h *bpf.HeadgateEventHeader, path, argv []byte) *process.Image {
	image := &process.Image{
		Exec:          h.ExecTime,
		Inode:         h.Inode,
		Argv:          splitArgv(argv),
		ArgvTruncated: h.Flags&bpf.HeadgateEventFlagsEVENT_ARGV_TRUNCATED != 0,
	}
	if h.Device != 0 {
		// The kernel's own encoding of a device has 20 bits for the minor.
		image.Device = unix.Mkdev(h.Device>>20, h.Device&(1<<20-1))
	}
	if h.Flags&bpf.HeadgateEventFlagsEVENT_PATH_CUT != 0 {
		image.Exe = string(bytes.TrimRight(path, "\x00"))
	} else {
		image.Exe = joinPath(path)
	}
	return image
}

// joinPath makes a path of its components, which come nearest first and each
// end with NUL.
func joinPath(b []byte) string {
	b, ok := bytes.CutSuffix(b, []byte{0})
	if !ok {
		return ""
	}
	parts := strings.Split(string(b), "\x00")
	slices.Reverse(parts)
	return "/" + strings.Join(parts, "/")
}

// complete takes from /proc what the kernel could not give. The event is
// partial then, unless /proc names the very file that the kernel saw: its path
// is all that was missing.
func complete(ev *process.Event) {
	pid := int(ev.ID.PID)
	image, err := procImage(pid)
	if err == nil {
		var start uint64
		if start, err = ProcStart(pid); err == nil && !SameStart(start, ev.ID.Start) {
			err = ErrGone
		}
	}
	ev.Partial = true
	switch {
	case err != nil:
	case ev.Image.Inode == 0:
		image.Exec = ev.Image.Exec
		ev.Image = image
	case ev.Image.Inode == image.Inode && ev.Image.Device == image.Device:
		ev.Image.Exe = image.Exe
		ev.Partial = false
	}
}
