package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/internal/testenv"
	"github.com/headgate/headgate/pkg/names"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/transparent"
)

// program finds a program, or skips the test.
func program(t *testing.T, name, pkg string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	testenv.Skip(t, "needs "+name+" (Debian package "+pkg+"); scripts/test-deps.sh installs it")
	return ""
}

// server starts dnsmasq on loopback, with a few records, for the test's life.
func server(t *testing.T) string {
	t.Helper()
	bin := program(t, "dnsmasq", "dnsmasq-base")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	probe, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := probe.LocalAddr().String()
	port := strconv.Itoa(probe.LocalAddr().(*net.UDPAddr).Port)
	_ = probe.Close()
	var log bytes.Buffer
	cmd := exec.Command(bin, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--log-facility=-",
		"--listen-address=127.0.0.1", "--bind-interfaces", "--port="+port, "--user="+me.Username, "--pid-file",
		"--host-record=a.test,192.0.2.7,2001:db8::7", "--cname=www.test,a.test", "--txt-record=t.test,hello",
		"--txt-record=long.test"+strings.Repeat(","+strings.Repeat("x", 200), 20),
		"--dns-rr=h.test,65,000100000100030268320005000401020304", "--local=/test/")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	c := &dns.Client{Timeout: 100 * time.Millisecond}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		if _, _, err := c.Exchange((&dns.Msg{}).SetQuestion("a.test.", dns.TypeA), addr); err == nil {
			return addr
		}
		<-tick.C
	}
	t.Fatalf("dnsmasq does not answer")
	return ""
}

// gate is what the gateway does, in little: it listens on one port for both
// transports, and serves each flow as a session.
type gate struct {
	t      *testing.T
	d      *DNS
	origin string
	addr   string

	sessions sync.WaitGroup
	mu       sync.Mutex
	learned  []names.Answer
	asked    []string
}

func newGate(t *testing.T, origin string) *gate {
	t.Helper()
	g := &gate{t: t, d: New(Options{IdleUDP: 200 * time.Millisecond, IdleTCP: 200 * time.Millisecond}), origin: origin}
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	g.addr = udp.LocalAddr().String()
	tcp, err := net.Listen("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = udp.Close(), tcp.Close()
		g.sessions.Wait()
	})
	g.sessions.Go(func() { g.datagrams(udp) })
	g.sessions.Go(func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			g.sessions.Go(func() { g.serve(conn, transparent.TCP) })
		}
	})
	return g
}

// datagrams gives each sender a pipe.
func (g *gate) datagrams(udp *net.UDPConn) {
	flows := map[netip.AddrPort]net.Conn{}
	b := make([]byte, maxMessage)
	for {
		n, from, err := udp.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if flows[from] == nil {
			outer, inner := net.Pipe()
			flows[from] = outer
			g.sessions.Go(func() { g.serve(inner, transparent.UDP) })
			g.sessions.Go(func() {
				in := frames{from: outer}
				for {
					m, err := in.next()
					if err != nil {
						return
					}
					_, _ = udp.WriteToUDPAddrPort(m, from)
				}
			})
		}
		_, _ = flows[from].Write(framed(b[:n]))
	}
}

func (g *gate) serve(conn net.Conn, transport transparent.Transport) {
	defer func() { _ = conn.Close() }()
	s := &protocol.Session{
		ID: "session-1", Log: zerolog.Nop(),
		Downstream: transparent.NewConn(conn, transparent.Origin{Transport: transport}),
		Decide:     g.decide,
		Dial: func(ctx context.Context) (net.Conn, error) {
			up, err := (&net.Dialer{}).DialContext(ctx, transport.String(), g.origin)
			if err != nil || transport == transparent.TCP {
				return up, err
			}
			return &datagram{Conn: up}, nil
		},
		Learn: func(a names.Answer) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.learned = append(g.learned, a)
		},
		Record: func(protocol.Frame) error { return nil },
	}
	if err := g.d.Serve(g.t.Context(), s); err != nil && g.t.Context().Err() == nil && !errors.Is(err, io.EOF) {
		g.t.Logf("Serve returned %v", err)
	}
}

// decide allows all but names below denied.test.
func (g *gate) decide(_ context.Context, op *policy.Operation) (protocol.Ruling, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, op.Text)
	if op.Reason != "" || strings.HasSuffix(op.Objects[0].Name, "denied.test") {
		return protocol.Ruling{}, &protocol.Denial{ID: "op-42", Rule: "no-such-names", Reason: policy.ReasonRule, Message: "Ask Ada."}
	}
	return protocol.Ruling{ID: "op"}, nil
}

// datagram frames what a UDP socket reads, and unframes what it writes.
type datagram struct {
	net.Conn
	rest []byte
}

func (d *datagram) Read(p []byte) (int, error) {
	if len(d.rest) == 0 {
		b := make([]byte, maxMessage)
		n, err := d.Conn.Read(b)
		if err != nil {
			return 0, err
		}
		d.rest = framed(b[:n])
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

func (d *datagram) Write(p []byte) (int, error) {
	if len(p) < 2 || int(binary.BigEndian.Uint16(p)) != len(p)-2 {
		return 0, errors.New("not one whole message")
	}
	_, err := d.Conn.Write(p[2:])
	return len(p), err
}

// resolver returns a resolver that asks addr: as it likes, or over TCP only.
func resolver(addr, transport string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		if transport == "tcp" {
			network = transport
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
}

func TestRealResolverAndServer(t *testing.T) {
	g := newGate(t, server(t))
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			r := resolver(g.addr, network)
			addrs, err := r.LookupHost(t.Context(), "www.test.")
			slices.Sort(addrs)
			if want := []string{"192.0.2.7", "2001:db8::7"}; err != nil || !slices.Equal(addrs, want) {
				t.Errorf("www.test has the addresses %v (%v), want %v", addrs, err, want)
			}
			// Over UDP the answer is cut, and the resolver comes again by TCP.
			long, err := r.LookupTXT(t.Context(), "long.test.")
			if err != nil || len(strings.Join(long, "")) != 4000 {
				t.Errorf("long.test has %d bytes (%v), want 4000", len(strings.Join(long, "")), err)
			}
			_, err = r.LookupHost(t.Context(), "missing.test.")
			var failure *net.DNSError
			if !errors.As(err, &failure) || !failure.IsNotFound {
				t.Errorf("a name that is not there gives %v", err)
			}
			_, err = r.LookupHost(t.Context(), "x.denied.test.")
			if !errors.As(err, &failure) || failure.IsNotFound {
				t.Errorf("a denied name gives %v, want a failure that is not about the name", err)
			}
		})
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, addr := range []string{"192.0.2.7", "2001:db8::7"} {
		if !slices.ContainsFunc(g.learned, func(a names.Answer) bool {
			return a.Name == "www.test" && slices.Equal(a.Aliases, []string{"a.test"}) && slices.Equal(a.Addrs, []netip.Addr{netip.MustParseAddr(addr)})
		}) {
			t.Errorf("%s was not learned for www.test: %+v", addr, g.learned)
		}
	}
}

func TestRealDigReadsARefusal(t *testing.T) {
	dig := program(t, "dig", "bind9-dnsutils")
	g := newGate(t, server(t))
	host, port, _ := strings.Cut(g.addr, ":")
	for _, transport := range []string{"+notcp", "+tcp"} {
		for what, want := range map[string][]string{
			"x.denied.test A": {"status: REFUSED", "EDE: 15 (Blocked)", `denied by rule "no-such-names"`, "Ask Ada.", "op-42", ";x.denied.test."},
			"a.test A":        {"status: NOERROR", "192.0.2.7"},
			"t.test TXT":      {"status: NOERROR", "hello"},
			"h.test TYPE65":   {"status: NOERROR"},
		} {
			args := append([]string{"@" + host, "-p", port, transport, "+tries=1", "+time=10"}, strings.Fields(what)...)
			out, err := exec.CommandContext(t.Context(), dig, args...).CombinedOutput()
			if err != nil {
				t.Errorf("dig %s %s: %v\n%s", transport, what, err, out)
			}
			text := strings.ReplaceAll(string(out), `\"`, `"`)
			for _, w := range want {
				if !strings.Contains(text, w) {
					t.Errorf("dig %s %s: %q is missing\n%s", transport, what, w, out)
				}
			}
			if strings.Contains(string(out), "01020304") || strings.Contains(string(out), "AQIDBA") {
				t.Errorf("dig %s %s sees the keys\n%s", transport, what, out)
			}
		}
	}
}
