package kernel

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/internal/testenv"
	"github.com/headgate/headgate/pkg/transparent"
)

func TestPrivilegedConnectionEndsWhenNewRulesDenyIt(t *testing.T) {
	for name, v := range map[string]Verdict{"observed": Observed, "direct": Direct} {
		t.Run(name, func(t *testing.T) {
			f := listening(t, Options{})
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			must(t, err)
			defer l.Close()
			port := uint16(l.Addr().(*net.TCPAddr).Port)
			d := Destination{Prefix: netip.MustParsePrefix("127.0.0.1/32"), Port: port, Transport: transparent.TCP, Verdict: v, Rule: 5}
			must(t, f.SetDestinations([]Destination{d}))
			cmd := exec.Command("/bin/bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d; echo one >&3; read x; echo two >&3; read y", port))
			in, err := cmd.StdinPipe()
			must(t, err)
			testenv.StartIn(t, cmd, f.jobs)
			must(t, cmd.Start())
			c, err := l.Accept()
			must(t, err)
			r := bufio.NewReader(c)
			_, err = r.ReadString('\n')
			must(t, err)
			d.Verdict = Deny
			must(t, f.SetDestinations([]Destination{d}))
			fmt.Fprintln(in, "go")
			must(t, c.SetReadDeadline(time.Now().Add(2*time.Second)))
			two, _ := r.ReadString('\n')
			in.Close()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if two != "" {
				t.Errorf("a connection that was only %s goes on after its rule denies", name)
			}
		})
	}
}
