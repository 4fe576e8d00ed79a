package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
)

// talk is a client that waits for something to do.
type talk struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer
}

// talkTo starts a client on a path and waits until it is connected.
func (b *bench) talkTo(ctx context.Context, p path, args ...string) (t *talk, err error) {
	t = &talk{cmd: b.command(ctx, p, append([]string{b.clientProgram(), asClient}, args...)...)}
	t.cmd.Stderr = &t.stderr
	if t.in, err = t.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	t.out = bufio.NewReader(out)
	if err := t.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start client: %w", err)
	}
	if line, err := t.out.ReadString('\n'); err != nil || line != "ready\n" {
		return nil, fmt.Errorf("client of %s: %q: %w", p.name, line, t.failed(err))
	}
	return t, nil
}

// failed ends the client and adds what it said.
func (t *talk) failed(err error) error {
	_ = t.in.Close()
	_ = t.cmd.Wait() // what it said tells more
	return fmt.Errorf("%w: %s", err, t.stderr.Bytes())
}

// ask has the client do something.
func (t *talk) ask(line string) (a answer, err error) {
	if _, err := io.WriteString(t.in, line+"\n"); err != nil {
		return a, t.failed(err)
	}
	text, err := t.out.ReadBytes('\n')
	if err != nil {
		return a, t.failed(err)
	}
	return a, json.Unmarshal(text, &a)
}

// end closes the client's input and waits until it is gone.
func (t *talk) end() error {
	err := t.in.Close()
	if waitErr := t.cmd.Wait(); waitErr != nil {
		return fmt.Errorf("client: %w: %s", waitErr, t.stderr.Bytes())
	}
	return err
}
