package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// client is this program as a client. It opens what it is told to, says
// "ready", and does what each line of its input says, answering with one line of
// JSON, until the input ends.
//
//	sessions N  N sessions of a database; a line is a statement, which all of them run at the same time
//	echo        a line is a number of milliseconds, in which connections are made one after the other
//	login       the same, each with a log-in
func client(args []string, in io.Reader, out io.Writer) error {
	var work func(line string) (answer, error)
	switch args[0] {
	case "sessions":
		n, err := strconv.Atoi(args[len(args)-1])
		if err != nil {
			return fmt.Errorf("read number of sessions: %w", err)
		}
		s, err := openSessions(n)
		if err != nil {
			return err
		}
		defer s.close()
		work = s.query
	case "echo":
		work = func(line string) (answer, error) { return connections(line, echoOnce) }
	case "login":
		work = func(line string) (answer, error) { return connections(line, loginOnce) }
	default:
		return fmt.Errorf("unknown client %q", args[0])
	}
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		a, err := work(lines.Text())
		if err != nil {
			return err
		}
		if err := json.NewEncoder(out).Encode(a); err != nil {
			return err
		}
	}
	return lines.Err()
}

// answer is what a client says about a line.
type answer struct {
	Seconds float64
	Rows    int
	Bytes   int // on the wire
	Seen    int // chunks with the text of a card or an id in them
	Count   int // connections
	P50     float64
	P90     float64
	P99     float64 // microseconds
}

// sessions are of a database, logged in.
type sessions []net.Conn

func openSessions(n int) (sessions, error) {
	conns, errs := make(sessions, n), make([]error, n)
	var wg sync.WaitGroup
	var failed atomic.Bool
	places := make(chan struct{}, 16)
	for i := range n {
		places <- struct{}{}
		if failed.Load() {
			break
		}
		wg.Go(func() {
			defer func() { <-places }()
			conns[i], errs[i] = openSession()
			if errs[i] != nil {
				failed.Store(true)
			}
		})
	}
	wg.Wait()
	for i, err := range errs { // one tells enough of thousands
		if err != nil {
			return nil, fmt.Errorf("session %d: %w", i, err)
		}
	}
	return conns, nil
}

func openSession() (net.Conn, error) {
	c, err := pgconn.Connect(context.Background(), "")
	if err != nil {
		return nil, err
	}
	h, err := c.Hijack()
	if err != nil {
		return nil, err
	}
	return h.Conn, nil
}

func (s sessions) close() {
	for _, c := range s {
		if c != nil {
			c.Close()
		}
	}
}

func (s sessions) query(sql string) (answer, error) {
	answers, errs := make([]answer, len(s)), make([]error, len(s))
	start := time.Now()
	var wg sync.WaitGroup
	for i, c := range s {
		wg.Go(func() { answers[i], errs[i] = drain(c, sql) })
	}
	wg.Wait()
	sum := answer{Seconds: time.Since(start).Seconds()}
	for _, a := range answers {
		sum.Rows, sum.Bytes, sum.Seen = sum.Rows+a.Rows, sum.Bytes+a.Bytes, sum.Seen+a.Seen
	}
	return sum, errors.Join(errs...)
}

// Messages begin with a byte for their type and four for the length of the rest:
// PostgreSQL's documentation, section 55.7.
const headerSize = 5

// drain runs a statement in the simple protocol and reads all of its result in
// large pieces, looking at the headers of messages only.
func drain(c net.Conn, sql string) (answer, error) {
	query := append(binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(4+len(sql)+1)), sql...)
	if _, err := c.Write(append(query, 0)); err != nil {
		return answer{}, err
	}
	var a answer
	buf := make([]byte, 256<<10)
	kept, skip, last := 0, 0, false
	for {
		n, err := c.Read(buf[kept:])
		if err != nil {
			return a, fmt.Errorf("read result: %w", err)
		}
		a.Bytes += n
		data := buf[:kept+n]
		if leaks(data[kept:]) {
			a.Seen++
		}
		for {
			passed := min(skip, len(data))
			data, skip = data[passed:], skip-passed
			if last && skip == 0 {
				return a, nil
			}
			if len(data) < headerSize {
				break
			}
			length := int(binary.BigEndian.Uint32(data[1:]))
			switch data[0] {
			case 'D':
				a.Rows++
			case 'E':
				return a, fmt.Errorf("the target says %q", data)
			case 'Z':
				last = true
			}
			skip = 1 + length
		}
		kept = copy(buf, data)
	}
}

// leaks reports whether what masks hide is in a piece of a result.
func leaks(data []byte) bool {
	return bytes.Contains(data, []byte("4111 1111")) || bytes.Contains(data, []byte("078-05-"))
}

// connections makes connections for some milliseconds, one after the other.
func connections(line string, once func(address string) error) (answer, error) {
	ms, err := strconv.Atoi(line)
	if err != nil {
		return answer{}, fmt.Errorf("read time: %w", err)
	}
	address := net.JoinHostPort(os.Getenv("PGHOST"), os.Getenv("PGPORT"))
	var took []float64
	start := time.Now()
	for time.Since(start) < time.Duration(ms)*time.Millisecond {
		begun := time.Now()
		if err := once(address); err != nil {
			return answer{}, err
		}
		took = append(took, micros(time.Since(begun)))
	}
	slices.Sort(took)
	return answer{Seconds: time.Since(start).Seconds(), Count: len(took),
		P50: percentile(took, 0.5), P90: percentile(took, 0.9), P99: percentile(took, 0.99)}, nil
}

// echoOnce sends a byte and reads until the other side closes.
func echoOnce(address string) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte{'x'}); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && string(got) != "x" {
		err = fmt.Errorf("got %q back", got)
	}
	return err
}

func loginOnce(string) error {
	c, err := pgconn.Connect(context.Background(), "")
	if err != nil {
		return err
	}
	return c.Close(context.Background())
}
