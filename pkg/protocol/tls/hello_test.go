package tls

import (
	"bytes"
	cryptotls "crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/transparent"
)

// script is a connection that has bytes to read and takes whatever is written.
type script struct {
	net.Conn
	io.Reader
	wrote bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)       { return s.Reader.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return s.wrote.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func newScript(b []byte) *script                   { return &script{Reader: bytes.NewReader(b)} }
func scripted(b []byte) *transparent.Conn {
	return transparent.NewConn(newScript(b), transparent.Origin{})
}
func produced(t testing.TB, c *cryptotls.Config) []byte {
	t.Helper()
	conn := newScript(nil)
	if err := cryptotls.Client(conn, c).Handshake(); !errors.Is(err, io.EOF) {
		t.Fatalf("make a hello: %v", err)
	}
	return conn.wrote.Bytes()
}

// reference is what crypto/tls reads out of a hello. ok is false if it doesn't
// take it for one.
func reference(b []byte) (info *cryptotls.ClientHelloInfo, ok bool) {
	stop := errors.New("stop")
	config := &cryptotls.Config{
		MinVersion: cryptotls.VersionTLS10,
		GetConfigForClient: func(i *cryptotls.ClientHelloInfo) (*cryptotls.Config, error) {
			info = i
			return nil, stop
		},
	}
	err := cryptotls.Server(newScript(b), config).Handshake()
	return info, errors.Is(err, stop)
}

// agents are the ways in which a hello can be made that matter for its form.
func agents() map[string]*cryptotls.Config {
	return map[string]*cryptotls.Config{
		"plain":            {ServerName: "a.example"},
		"upper case":       {ServerName: "A.Example"},
		"no name":          {InsecureSkipVerify: true},
		"address":          {ServerName: "192.0.2.7"},
		"alpn":             {ServerName: "a.example", NextProtos: []string{"h2", "http/1.1"}},
		"TLS 1.0 only":     {ServerName: "a.example", MinVersion: cryptotls.VersionTLS10, MaxVersion: cryptotls.VersionTLS10},
		"TLS 1.2 only":     {ServerName: "a.example", MaxVersion: cryptotls.VersionTLS12},
		"TLS 1.3 only":     {ServerName: "a.example", MinVersion: cryptotls.VersionTLS13},
		"ML-KEM":           {ServerName: "a.example", CurvePreferences: []cryptotls.CurveID{cryptotls.X25519MLKEM768}},
		"no ML-KEM":        {ServerName: "a.example", CurvePreferences: []cryptotls.CurveID{cryptotls.X25519}},
		"many protocols":   {ServerName: "a.example", NextProtos: slices.Repeat([]string{strings.Repeat("p", 255)}, 40)},
		"long name":        {ServerName: strings.Repeat(strings.Repeat("a", 49)+".", 5) + "com"},
		"without tickets":  {ServerName: "a.example", SessionTicketsDisabled: true},
		"with a cache":     {ServerName: "a.example", ClientSessionCache: cryptotls.NewLRUClientSessionCache(1)},
		"trailing dot":     {ServerName: "a.example."},
		"underscore label": {ServerName: "_db.a.example"},
	}
}

func TestHelloReadsWhatCryptoTLSReads(t *testing.T) {
	for name, config := range agents() {
		t.Run(name, func(t *testing.T) {
			b := produced(t, config)
			want, ok := reference(b)
			if !ok {
				t.Fatal("crypto/tls does not read its own hello")
			}
			got, err := fillHello(scripted(b))
			if err != nil {
				t.Fatalf("read hello of %d bytes: %v", len(b), err)
			}
			compare(t, want, got)
			if name == "ML-KEM" && len(b) < 1200 {
				t.Errorf("the hello has %d bytes, too few for an ML-KEM key share", len(b))
			}
		})
	}
}

func compare(t *testing.T, want *cryptotls.ClientHelloInfo, got hello) {
	t.Helper()
	if want := strings.ToLower(want.ServerName); got.serverName != want {
		t.Errorf("server name is %q, crypto/tls reads %q", got.serverName, want)
	}
	protos := slices.DeleteFunc(slices.Clone(want.SupportedProtos), func(p string) bool {
		return len(p) == 2 && isGrease(int(p[0])<<8|int(p[1]))
	})
	if len(protos)+len(got.alpn) > 0 {
		if d := cmp.Diff(protos, got.alpn); d != "" {
			t.Errorf("other protocols (-crypto/tls +ours):\n%s", d)
		}
	}
}

func TestHelloVersionIsTheHighestOffered(t *testing.T) {
	for line, want := range map[string]string{
		"hello name=a.example":                              "1.2",
		"hello name=a.example versions=1.2,1.3,1.1":         "1.3",
		"hello name=a.example versions=1.1,1.0 grease":      "1.1",
		"hello grease versions=1.3 ech alpn=h2 records=200": "1.3",
	} {
		b, err := codec{}.Encode(line)
		if err != nil {
			t.Fatal(err)
		}
		got, err := fillHello(scripted(b))
		if err != nil || versionName(got.version) != want {
			t.Errorf("%s: version %s (%v), want %s", line, versionName(got.version), err, want)
		}
		if got.grease != strings.Contains(line, "grease") || got.encrypted != strings.Contains(line, "ech") {
			t.Errorf("%s: grease %v, encrypted %v", line, got.grease, got.encrypted)
		}
	}
}

func TestHelloIsTheSameInAnyNumberOfRecords(t *testing.T) {
	whole := produced(t, &cryptotls.Config{ServerName: "a.example", NextProtos: []string{"h2"}})
	want, err := fillHello(scripted(whole))
	if err != nil {
		t.Fatal(err)
	}
	body := whole[recordHeader:]
	for n := 1; n < len(body); n += 1 + n/3 {
		got, err := fillHello(scripted(inRecords(body, n)))
		if err != nil {
			t.Fatalf("%d records: %v", n, err)
		}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(hello{})); d != "" {
			t.Errorf("%d records (-one +many):\n%s", n, d)
		}
	}
}

func TestHelloThatCouldBeReadInTwoWaysIsRefused(t *testing.T) {
	name := func(entries ...[]byte) []byte { return extension(extServerName, vector16(slices.Concat(entries...))) }
	host := func(s string) []byte { return append([]byte{0}, vector16([]byte(s))...) }
	good := name(host("a.example"))
	for what, extensions := range map[string][]byte{
		"two names":              name(host("a.example"), host("b.example")),
		"the extension twice":    slices.Concat(good, name(host("b.example"))),
		"another type of name":   name(append([]byte{1}, vector16([]byte("a.example"))...)),
		"an empty name":          name(host("")),
		"an empty list":          name(),
		"an empty extension":     extension(extServerName, nil),
		"bytes after the list":   extension(extServerName, append(vector16(host("a.example")), 0)),
		"a zero in the name":     name(host("a.example\x00.b.example")),
		"a blank in the name":    name(host("a. example")),
		"a name that isn't ours": name(host("ä.example")),
		"an empty label":         name(host("a..example")),
		"an address":             name(host("192.0.2.7")),
		"a long label":           name(host(strings.Repeat("a", 64))),
		"a long name":            name(host(strings.Repeat("a.", 127))),
		"an empty protocol":      slices.Concat(good, extension(extALPN, vector16([]byte{0}))),
		"a cut protocol":         slices.Concat(good, extension(extALPN, vector16([]byte{2, 'h'}))),
		"no protocols":           slices.Concat(good, extension(extALPN, vector16(nil))),
		"half a version":         slices.Concat(good, extension(extSupportedVersions, vector8([]byte{3}))),
		"a cut extension":        append(slices.Clone(good), 0, 99, 0, 1),
	} {
		if got, err := fillHello(scripted(inRecords(message(extensions), 1))); err == nil {
			t.Errorf("%s: read as %+v", what, got)
		}
	}
}

func TestHelloIsBounded(t *testing.T) {
	for what, b := range map[string][]byte{
		"a message of 16 MiB":      {recordHandshake, 3, 1, 0, 4, clientHello, 0xff, 0xff, 0xff},
		"a message that can't be":  inRecords(append([]byte{clientHello, 0, 0x3f, 0xff}, make([]byte, 0x3fff)...), 1000),
		"an empty record":          {recordHandshake, 3, 1, 0, 0},
		"an empty message":         {recordHandshake, 3, 1, 0, 4, clientHello, 0, 0, 0},
		"a record of 64 KiB":       {recordHandshake, 3, 1, 0xff, 0xff},
		"a record that just can't": {recordHandshake, 3, 1, 0x40, 0x00},
		"a hello and what follows": inRecords(append(message(nil), 11, 0, 0, 0), 1),
	} {
		conn := newScript(b)
		_, err := fillHello(transparent.NewConn(conn, transparent.Origin{}))
		if err == nil || strings.Contains(err.Error(), "inside the ClientHello") {
			t.Errorf("%s: %v, want it refused by its form", what, err)
		}
	}
}

func TestHelloNeverNeedsMoreThanCanBePeeked(t *testing.T) {
	for pad := transparent.MaxPeek - 400; pad < transparent.MaxPeek+400; pad++ {
		b := inRecords(message(extension(21, make([]byte, pad))), 2)
		got, err := fillHello(scripted(b))
		if fits := len(b) <= transparent.MaxPeek; (err == nil) != fits {
			t.Fatalf("a hello of %d bytes: %+v, %v", len(b), got, err)
		}
	}
}

func FuzzHello(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, need, err := helloBody(b)
		if err == nil && need != 0 && (need <= len(b) || need > transparent.MaxPeek) {
			t.Errorf("%d bytes need %d", len(b), need)
		}
		got, err := fillHello(scripted(b))
		if err != nil {
			return
		}
		// How TCP cuts the bytes makes no difference.
		slow := &script{Reader: &cutting{b, rand.New(rand.NewPCG(1, uint64(len(b))))}}
		again, err := fillHello(transparent.NewConn(slow, transparent.Origin{}))
		if d := cmp.Diff(got, again, cmp.AllowUnexported(hello{})); d != "" || err != nil {
			t.Errorf("cut at random: %v, (-whole +cut):\n%s", err, d)
		}
	})
}

// cutting returns its bytes in pieces of any length.
type cutting struct {
	left   []byte
	random *rand.Rand
}

func (c *cutting) Read(p []byte) (int, error) {
	if len(c.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.left[:1+c.random.IntN(len(c.left))])
	c.left = c.left[n:]
	return n, nil
}

// FuzzHelloAgainstCryptoTLS looks for a hello out of which we and an upstream
// read different names.
func FuzzHelloAgainstCryptoTLS(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := fillHello(scripted(b))
		if err != nil {
			return // stricter is fine
		}
		if want, ok := reference(b); ok {
			compare(t, want, got)
		}
	})
}

func seed(f *testing.F) {
	for _, config := range agents() {
		f.Add(produced(f, config))
	}
	for _, line := range []string{
		"hello name=a.example alpn=h2,http/1.1 versions=1.3,1.2 records=3 ech grease",
		"hello versions=1.2 pad=300",
		"hello",
	} {
		b, err := codec{}.Encode(line)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte{recordHandshake, 3, 1, 0, 1, clientHello, recordHandshake, 3, 1, 0, 3, 0, 0, 0})
}
