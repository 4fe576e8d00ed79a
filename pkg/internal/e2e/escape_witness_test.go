package e2e

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// witness is the far side. It runs outside of every tree and writes down who
// reached it. Streams and datagrams get an answer.
type witness struct {
	t      *testing.T
	daemon int // its connections are no escapes

	mu       sync.Mutex
	knocking bool          // a row is over: who comes now has no use of a look at whose it is
	changed  chan struct{} // closed and replaced when contacts changes
	contacts []contact
	places   []place
	// tables are where the sockets of network namespaces are listed.
	tables []string
}

// contact is somebody who reached the witness.
type contact struct {
	network, local string
	peer           string // address and port, or the name of a unix socket
	direct         bool   // not by way of the daemon
	text           string // what was said, as far as it was heard
}

func (c contact) String() string {
	how := "through the daemon"
	if c.direct {
		how = "directly"
	}
	return fmt.Sprintf("%s at %s %s, from %s, saying %q", how, c.network, c.local, c.peer, c.text)
}

// place is an address at which the witness listens.
type place struct{ network, local string }

func newWitness(t *testing.T, daemon int) *witness {
	return &witness{t: t, daemon: daemon, changed: make(chan struct{}), tables: []string{"/proc/net/"}}
}

// stream listens for connections. answer has the connection to itself.
func (w *witness) stream(network, local string, answer func(c net.Conn, heard func(string))) {
	w.t.Helper()
	l, err := net.Listen(network, local)
	check(w.t, err)
	if network == "unix" && !strings.HasPrefix(local, "@") {
		check(w.t, os.Chmod(local, 0o666))
	}
	w.t.Cleanup(func() { l.Close() })
	w.places = append(w.places, place{network, local})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// Noted in the order of arrival, while the peer's socket is there.
			i := w.note(contact{network: network, local: local, peer: c.RemoteAddr().String(), direct: !w.daemons(network, c.RemoteAddr())})
			go func() {
				defer c.Close()
				// A peer that says nothing shows in the text that is missing.
				_ = c.SetDeadline(time.Now().Add(3 * time.Second))
				answer(c, func(text string) { w.heard(i, text) })
			}()
		}
	}()
}

// greet skips the TLS record that everybody begins with, answers, hears one
// line, and answers the end of the other direction. It is no TLS: the gate passes
// that through unread.
func greet(c net.Conn, heard func(string)) {
	r := bufio.NewReader(c)
	head := make([]byte, 5)
	if _, err := io.ReadFull(r, head); err != nil {
		return
	}
	if _, err := r.Discard(int(binary.BigEndian.Uint16(head[3:]))); err != nil {
		return
	}
	// Whoever is gone again hears nothing, and says nothing.
	_, _ = fmt.Fprintf(c, "witness %s\n", c.LocalAddr().Network())
	text, err := r.ReadString('\n')
	heard(strings.TrimSpace(text))
	if err != nil {
		return
	}
	rest, err := io.ReadAll(io.LimitReader(r, 4096))
	if len(rest) > 0 {
		heard(strings.TrimSpace(text + string(rest)))
	}
	if err == nil {
		_, _ = io.WriteString(c, "end\n")
	}
}

// greetPatiently is for connections that are older than an enrolment.
func greetPatiently(c net.Conn, heard func(string)) {
	// If it can't be set, who says nothing for long is gone early.
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	greet(c, heard)
}

// datagrams answers datagrams.
func (w *witness) datagrams(network, local string, answer func(query []byte) []byte) {
	w.t.Helper()
	p, err := net.ListenPacket(network, local)
	check(w.t, err)
	if network == "unixgram" {
		check(w.t, os.Chmod(local, 0o666))
	}
	w.t.Cleanup(func() { p.Close() })
	w.places = append(w.places, place{network, local})
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := p.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil || from == nil {
				continue
			}
			w.note(contact{network: network, local: local, peer: from.String(), direct: !w.daemons(network, from), text: strings.TrimSpace(string(b[:n]))})
			// A made-up sender can't be answered.
			_, _ = p.WriteTo(answer(b[:n]), from)
		}
	}()
}

func (w *witness) note(c contact) (index int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.contacts = append(w.contacts, c)
	w.wake()
	return len(w.contacts) - 1
}

func (w *witness) heard(index int, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.contacts[index].text = text
	w.wake()
}

// wake is called with mu held.
func (w *witness) wake() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// forgotten is the network of a contact that does not count.
const forgotten = "forgotten"

// mark is where the contacts of a row begin.
func (w *witness) mark() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.contacts)
}

// since returns who came after a mark. Before, it knocks at each place itself
// and waits until that is noted: whoever came earlier then is too.
func (w *witness) since(mark int) []contact {
	w.t.Helper()
	w.knocks(true)
	defer w.knocks(false)
	var knocks []string
	for i, p := range w.places {
		knocks = append(knocks, w.knock(p, i))
	}
	deadline := time.After(10 * time.Second)
	for {
		w.mu.Lock()
		found := slices.Clone(w.contacts[mark:])
		changed := w.changed
		w.mu.Unlock()
		came := slices.DeleteFunc(slices.Clone(found), func(c contact) bool { return slices.Contains(knocks, c.network+c.peer) })
		if len(found)-len(came) >= len(knocks) {
			return slices.DeleteFunc(came, func(c contact) bool { return c.network == forgotten })
		}
		select {
		case <-changed:
		case <-deadline:
			w.t.Fatalf("the witness noted %d of %d knocks", len(found)-len(came), len(knocks))
		}
	}
}

func (w *witness) knocks(now bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.knocking = now
}

// knock says something at a place and returns by which name it is noted.
func (w *witness) knock(p place, i int) string {
	w.t.Helper()
	var d net.Dialer
	switch name := fmt.Sprintf("@headgate-knock-%d-%d-%d", os.Getpid(), i, time.Now().UnixNano()); p.network {
	case "unix":
		d.LocalAddr = &net.UnixAddr{Name: name, Net: p.network}
	case "unixgram":
		d.LocalAddr = &net.UnixAddr{Name: name, Net: p.network}
	}
	network := p.network
	if network == onTheWire {
		network = "udp4"
	}
	c, err := d.DialContext(w.t.Context(), network, p.local)
	check(w.t, err)
	defer c.Close()
	_, err = c.Write([]byte("knock\n"))
	check(w.t, err)
	return p.network + c.LocalAddr().String()
}

// daemons reports whether the socket at the other end is the daemon's. Whoever
// comes while the witness knocks came late, and is taken for somebody else.
func (w *witness) daemons(network string, peer net.Addr) bool {
	w.mu.Lock()
	knocking := w.knocking
	w.mu.Unlock()
	if knocking || !strings.HasPrefix(network, "tcp") && !strings.HasPrefix(network, "udp") {
		return false
	}
	at, err := netip.ParseAddrPort(peer.String())
	if err != nil {
		return false
	}
	inode := ""
	for _, dir := range w.tables {
		if inode == "" {
			inode = socketAt(dir, network[:3], at)
		}
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", w.daemon))
	return err == nil && inode != "" && slices.ContainsFunc(fds, func(fd string) bool {
		link, err := os.Readlink(fd)
		return err == nil && link == "socket:["+inode+"]"
	})
}

// socketAt returns the inode of the socket that has a local address, which for
// datagrams may be the unspecified one.
func socketAt(dir, network string, at netip.AddrPort) string {
	for _, table := range []string{dir + network, dir + network + "6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			return ""
		}
		for l := range strings.Lines(string(text)) {
			f := strings.Fields(l)
			if len(f) < 10 || f[9] == "0" {
				continue
			}
			local := hexAddress(f[1])
			if local.Port() == at.Port() && (local.Addr() == at.Addr().Unmap() || network == "udp" && local.Addr().IsUnspecified()) {
				return f[9]
			}
		}
	}
	return ""
}

// hexAddress reads "0A0200C0:1B5F": each word of the address is in the
// machine's order.
func hexAddress(s string) netip.AddrPort {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil || len(b)%4 != 0 {
		return netip.AddrPort{}
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(n))
}

// dnsAnswer says that every name has one address.
func dnsAnswer(query []byte) []byte {
	if len(query) < 17 {
		return nil
	}
	end := 12
	for end < len(query) && query[end] != 0 {
		end += int(query[end]) + 1
	}
	if end += 5; end > len(query) {
		return nil
	}
	answer := slices.Concat(query[:end], []byte{0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 77})
	copy(answer[2:], []byte{0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0})
	return answer
}

// dnsStream is the same over TCP.
func dnsStream(c net.Conn, heard func(string)) {
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return
	}
	query := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, query); err != nil {
		return
	}
	heard(string(query))
	answer := dnsAnswer(query)
	// Whoever asked may be gone.
	_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
}
