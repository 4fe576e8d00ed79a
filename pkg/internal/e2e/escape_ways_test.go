package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// tlsHello is what the escape program says first, for printf.
const tlsHello = `\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03headgate-headgate-headgate-32by.\x00\x00\x02\x13\x01\x01\x00escape\n`

const (
	bashClient = `exec 3<>/dev/tcp/` + serverV4 + `/7007; printf "` + tlsHello + `" >&3; read -r line <&3; ` +
		`printf "{\"result\":\"connected\",\"pid\":%d,\"reply\":\"%s\"}\n" $$ "$line"`
	pythonClient = `exec /usr/bin/python3 -c 'import socket, os, json
c = socket.create_connection(("` + serverV4 + `", 7007))
c.sendall(b"` + tlsHello + `")
print(json.dumps({"result": "connected", "pid": os.getpid(), "reply": c.makefile().readline()}))'`
)

// inTree runs a command as the escape program is run.
func (e *escapes) inTree(argv ...string) outcome {
	return e.tree([]string{e.bin, "run", "--socket", e.socket, "--agent", "ci", "--"}, nobody, argv...)
}

// shell runs a text that prints the report itself.
func shell(text string) func(*escapes) report {
	return func(e *escapes) report { return e.parse(e.inTree("/bin/bash", "-c", text)) }
}

// preloaded runs a harmless program with a library that connects.
func preloaded(at string) func(*escapes) report {
	return func(e *escapes) report {
		library := filepath.Join(e.dir, "preload.so")
		if _, err := os.Stat(library); err != nil {
			if out, err := exec.Command("gcc", "-shared", "-fPIC", "-o", library, "testdata/escape/c/preload.c").CombinedOutput(); err != nil {
				e.t.Fatalf("build library: %v\n%s", err, out)
			}
		}
		return e.parse(e.inTree("/usr/bin/env", "LD_PRELOAD="+library, "ESCAPE_AT="+at, "ESCAPE_HOST="+serverV4, "ESCAPE_PORT=7007", "/bin/true"))
	}
}

// answered runs the command line in a tree; it must fail and say why.
func answered(why string, args ...string) func(*escapes) report {
	return func(e *escapes) report {
		for i := range args {
			args[i] = e.words.Replace(args[i])
		}
		o := e.inTree(append([]string{e.bin}, args...)...)
		if o.status == 0 || !strings.Contains(o.text, why) {
			e.t.Errorf("%v: %+v", args, o)
		}
		return report{Result: "refused", Errno: "answer"}
	}
}

// deniedName asks for a name that no rule allows. The answer says no; what it
// says is what stands for an errno here.
func deniedName(argv, no string) func(*escapes) report {
	return func(e *escapes) report {
		r := e.escape(way{argv: argv + " other.example"})
		if r.Reply == no {
			r.Result, r.Errno = "refused", no
		}
		return r
	}
}

// inbound connects to an agent that listens.
func inbound(e *escapes) report {
	local := serverV4 + ":7020"
	done := make(chan report, 1)
	go func() { done <- e.escape(way{argv: "listen " + local}) }()
	var c net.Conn
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline) && c == nil; <-time.After(20 * time.Millisecond) {
		c, _ = net.Dial("tcp", local)
	}
	if c == nil {
		e.t.Error("nobody listens")
		return <-done
	}
	defer c.Close()
	// Whether it arrives is what the agent reports.
	_, _ = fmt.Fprintln(c, "from outside")
	return <-done
}

// outside starts the escape program in no tree, in a cgroup that the hooks see,
// and waits until it is ready. The report is there when it has ended.
func (e *escapes) outside(args ...string) (ended func() report) {
	e.t.Helper()
	dir, err := os.Open(filepath.Join(e.cgroup, "outside"))
	check(e.t, err)
	defer dir.Close()
	cmd := e.command(0, append([]string{e.program}, args...)...)
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	pipe, err := cmd.StdoutPipe()
	check(e.t, err)
	check(e.t, cmd.Start())
	lines := bufio.NewReader(pipe)
	if text, err := lines.ReadString('\n'); text != "ready\n" {
		e.t.Errorf("the outsider is not ready: %q, %v", text, err)
	}
	return func() report {
		text, _ := lines.ReadString('\n')
		if err := cmd.Wait(); err != nil {
			e.t.Errorf("the outsider: %v", err)
		}
		return e.parse(outcome{text: text})
	}
}

// handedOut has somebody outside make a socket, and connect it if an address is
// given, and the agent use it.
func handedOut(to string) func(*escapes) report {
	return func(e *escapes) report {
		path, args := filepath.Join(e.dir, "hand-out-"+fmt.Sprint(len(to))), []string{}
		if to != "" {
			args = append(args, e.words.Replace(to))
		}
		ended := e.outside(append([]string{"fd-hand-out", path}, args...)...)
		argv := "fd-receive " + path
		if to == "" {
			argv += " {v4}"
		}
		r := e.escape(way{argv: argv})
		ended()
		return r
	}
}

// handedIn has somebody outside connect a socket that an agent made.
func handedIn(e *escapes) report {
	path := filepath.Join(e.dir, "hand-in")
	ended := e.outside("fd-take", path, e.words.Replace("{v4}"))
	r := e.escape(way{argv: "fd-give " + path})
	ended()
	return r
}

// asked has somebody outside connect, as any service may that can be asked to.
func asked(e *escapes) report {
	path := filepath.Join(e.dir, "ask")
	ended := e.outside("act", path, e.words.Replace("{v4}"))
	r := e.escape(way{argv: "unix " + path})
	ended()
	return r
}

// enrolledWith is a process that has a socket and then becomes an agent.
func enrolledWith(state, to string) func(*escapes) report {
	return func(e *escapes) report {
		o := e.treeIn("outside", nobody, e.program, "before", e.bin, e.socket, state, e.words.Replace(to))
		r := e.parse(o)
		if state == "connected" {
			e.forgetSilent()
		}
		return r
	}
}

// forgetSilent removes those contacts from which nothing was heard: the
// connection that was there before the enrolment is no escape as long as nothing
// comes over it.
func (e *escapes) forgetSilent() {
	w := e.witness
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.contacts {
		if w.contacts[i].text == "" {
			w.contacts[i].network = forgotten
		}
	}
}
