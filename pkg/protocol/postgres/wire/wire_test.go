package wire_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

func message(typ byte, body string) []byte {
	out, mark := wire.Begin(nil, typ)
	return wire.Finish(append(out, body...), mark)
}

func TestReaderHandsOutTheOriginalBytesHoweverTheyArrive(t *testing.T) {
	var stream []byte
	for _, n := range []int{0, 1, 5, 4091, 4096, 65531, 65532, 65536, 131_066, 131_067, 131_068, 131_072, 300_000, 3} {
		stream = append(stream, message('d', string(bytes.Repeat([]byte{'x', 0, 'y'}, n/3+1)[:n]))...)
	}
	for name, source := range map[string]io.Reader{
		"whole":    bytes.NewReader(stream),
		"one byte": iotest.OneByteReader(bytes.NewReader(stream)),
		"half":     iotest.HalfReader(bytes.NewReader(stream)),
		"with EOF": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		t.Run(name, func(t *testing.T) {
			r := wire.NewReader(source, nil)
			var got bytes.Buffer
			for i := 0; ; i++ {
				_, n, err := r.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if i%2 == 1 {
					if _, err := r.CopyTo(&got); err != nil {
						t.Fatal(err)
					}
					continue
				}
				raw, err := r.Raw(n)
				if err != nil {
					t.Fatal(err)
				}
				got.Write(raw)
			}
			if !bytes.Equal(got.Bytes(), stream) {
				t.Errorf("got %d bytes that differ from the %d sent", got.Len(), len(stream))
			}
		})
	}
}

func TestReaderRefusesWhatIsNoMessage(t *testing.T) {
	limits := func(typ byte) (int, bool) { return 10, typ == 'Q' }
	for name, tc := range map[string]struct {
		stream []byte
		want   error
	}{
		"length below four": {[]byte{'Q', 0, 0, 0, 3}, wire.ErrMalformed},
		"negative length":   {[]byte{'Q', 0xff, 0xff, 0xff, 0xff}, wire.ErrMalformed},
		"over the limit":    {[]byte{'Q', 0, 0, 0, 15}, wire.ErrTooLarge},
		"unexpected type":   {[]byte{'R', 0, 0, 0, 4}, wire.ErrMalformed},
		"end in the header": {[]byte{'Q', 0, 0}, io.ErrUnexpectedEOF},
		"end between":       {nil, io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := wire.NewReader(bytes.NewReader(tc.stream), limits).Next()
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestReaderReportsTheEndInsideABody(t *testing.T) {
	for name, read := range map[string]func(*wire.Reader) error{
		"raw":     func(r *wire.Reader) error { _, err := r.Raw(1 << 20); return err },
		"copy":    func(r *wire.Reader) error { _, err := r.CopyTo(io.Discard); return err },
		"discard": func(r *wire.Reader) error { return r.Discard() },
	} {
		for _, n := range []int{10, 200_000} {
			whole := message('d', string(make([]byte, n)))
			r := wire.NewReader(bytes.NewReader(whole[:len(whole)-1]), nil)
			if _, _, err := r.Next(); err != nil {
				t.Fatal(err)
			}
			if err := read(r); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s of %d: got %v", name, n, err)
			}
		}
	}
}

func TestALargePromiseAllocatesNothing(t *testing.T) {
	r := wire.NewReader(bytes.NewReader([]byte{'d', 0x3f, 0xff, 0xff, 0xff, 1, 2, 3}), nil)
	allocated := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			r = wire.NewReader(bytes.NewReader([]byte{'d', 0x3f, 0xff, 0xff, 0xff, 1, 2, 3}), nil)
			_, n, err := r.Next()
			if err != nil {
				b.Fatal(err)
			}
			if _, err := r.Raw(n); !errors.Is(err, io.ErrUnexpectedEOF) {
				b.Fatal(err)
			}
		}
	}).AllocedBytesPerOp()
	if allocated > 512<<10 {
		t.Errorf("%d bytes were allocated for a gigabyte that never came", allocated)
	}
}

func TestStartupPacketsAreReadExactly(t *testing.T) {
	packet := wire.AppendStartup(nil, []wire.Parameter{{Name: "user", Value: "a"}, {Name: "user", Value: "b"}})
	r := bytes.NewReader(append(packet, "behind"...))
	s, raw, err := wire.ReadStartup(iotest.OneByteReader(r))
	if err != nil {
		t.Fatal(err)
	}
	if user, ok := s.Get("user"); !ok || user != "b" {
		t.Errorf("user is %q", user)
	}
	if !bytes.Equal(raw, packet) || r.Len() != len("behind") {
		t.Errorf("read %q, left %d bytes", raw, r.Len())
	}
}

func TestStartupPacketsThatAreRefused(t *testing.T) {
	for name, raw := range map[string][]byte{
		"too short":        {0, 0, 0, 7, 0, 3, 0},
		"too long":         {0, 0, 0x27, 0x11, 0, 3, 0, 0},
		"version 2":        {0, 0, 0, 9, 0, 2, 0, 0, 0},
		"short cancel":     {0, 0, 0, 15, 0x04, 0xd2, 0x16, 0x2e, 0, 0, 0, 1, 1, 2, 3},
		"long TLS request": {0, 0, 0, 9, 0x04, 0xd2, 0x16, 0x2f, 0},
		"no end":           {0, 0, 0, 10, 0, 3, 0, 0, 'u', 0},
		"bytes behind":     {0, 0, 0, 10, 0, 3, 0, 0, 0, 1},
	} {
		if _, _, err := wire.ReadStartup(bytes.NewReader(raw)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestBindHasMoreThanAnInt16OfParameters(t *testing.T) {
	body := []byte{0, 0, 0, 0, 0xff, 0xff}
	for range 65535 {
		body = append(body, 0xff, 0xff, 0xff, 0xff)
	}
	m, err := wire.DecodeBind(append(body, 0, 0))
	if err != nil || len(m.Parameters) != 65535 {
		t.Errorf("got %d parameters, %v", len(m.Parameters), err)
	}
}

func TestEmptyAndNullValuesDiffer(t *testing.T) {
	row, n, err := wire.DecodeDataRow([]byte{0, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	if err != nil || n != 2 {
		t.Fatal(n, err)
	}
	null, empty := row.Next(), row.Next()
	if null != nil || empty == nil || row.Err() != nil {
		t.Errorf("got %v, %v, %v", null, empty, row.Err())
	}
}

func TestWriterKeepsTheOrder(t *testing.T) {
	var sink, want bytes.Buffer
	w := wire.NewWriter(&sink)
	for _, n := range []int{1, 10, 40_000, 5, 32 << 10, 100_000, 2} {
		p := bytes.Repeat([]byte{byte(n)}, n)
		want.Write(p)
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Len(), sink.Len()); diff != "" || !bytes.Equal(want.Bytes(), sink.Bytes()) {
		t.Errorf("bytes differ: %s", diff)
	}
}
