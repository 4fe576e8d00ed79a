// Command escape tries one way out of the gate and says on one line of JSON
// what became of it. It is built static, knows nothing of a proxy, and uses raw
// system calls where a library would be in the way.
//
//	escape WAY [ARG...]          one of the ways below
//	escape WRAPPER [ARG...] WAY… the same from a process that came about in an odd manner
//
// A result is "connected" (the way led somewhere; reply is what was said
// there), "refused" (EPERM or EACCES), "unavailable" (the kernel has no such
// thing) or "error" (anything else, with its errno).
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

type report struct {
	Way    string `json:"way"`
	Result string `json:"result"`
	Errno  string `json:"errno,omitempty"`
	Detail string `json:"detail,omitempty"`
	Reply  string `json:"reply,omitempty"`
	PID    int    `json:"pid"`
}

// attempt is one way out. It returns what the far side said.
type attempt func(args []string) (reply string, err error)

// errUnavailable means that this kernel does not have what the way needs.
var errUnavailable = errors.New("not in this kernel")

func ways() map[string]attempt {
	all := map[string]attempt{}
	for _, group := range []map[string]attempt{tcpWays(), udpWays(), dnsWays(), familyWays(), unixWays(), hostWays(), namespaceWays(), optionWays(), olderWays(), wrappers()} {
		for name, a := range group {
			all[name] = a
		}
	}
	return all
}

func main() {
	if len(os.Args) < 2 || ways()[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: escape WAY [ARG...]")
		os.Exit(2)
	}
	reply, err := ways()[os.Args[1]](os.Args[2:])
	if errors.Is(err, errSaid) {
		return
	}
	say(os.Args[1], reply, err)
}

// errSaid means that another process has printed the line.
var errSaid = errors.New("said by another process")

func say(way, reply string, err error) {
	r := report{Way: way, Result: "connected", Reply: reply, PID: os.Getpid()}
	var errno unix.Errno
	if err != nil {
		r.Result, r.Detail = "error", err.Error()
		if errors.As(err, &errno) {
			r.Errno = unix.ErrnoName(errno)
		}
		switch {
		case errors.Is(err, errUnavailable):
			r.Result = "unavailable"
		case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
			r.Result = "refused"
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// lacking turns the errno by which a kernel says that it has no such family,
// type or protocol into errUnavailable.
func lacking(err error) error {
	for _, e := range []unix.Errno{unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ESOCKTNOSUPPORT, unix.ENOSYS, unix.ENOPROTOOPT} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", errUnavailable, err)
		}
	}
	return err
}

func at(step string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", step, err)
}

func need(args []string, n int) {
	if len(args) < n {
		fmt.Fprintf(os.Stderr, "%s needs %d arguments\n", os.Args[1], n)
		os.Exit(2)
	}
}
