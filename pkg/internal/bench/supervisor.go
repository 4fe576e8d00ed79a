package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/cgroup"
)

// The words that this program is started again with.
const (
	asInside = "inside"
	asClient = "client"
)

// patience is how long what was told to end may take.
const patience = 20 * time.Second

// Main is the command: what it measured goes to stdout, what it does meanwhile
// to stderr. It starts processes and ends all of them, also when it is told to
// end itself. It needs root.
func Main(args []string, stdout, stderr io.Writer) error {
	switch {
	case len(args) > 1 && args[0] == asClient:
		return client(args[1:], os.Stdin, stdout)
	case len(args) > 1 && args[0] == asInside:
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return inside(ctx, args[1:], stdout, stderr)
	}
	o, err := ParseOptions(args, stderr)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("it makes cgroups and namespaces and needs root; make bench asks for it")
	}
	if err := o.checkPage(); err != nil {
		return err
	}
	return supervise(o, args, stdout, stderr)
}

// supervisor owns what has to be gone in the end.
type supervisor struct {
	dir    string // readable by everybody
	cgroup string
}

// supervise runs the measurements in a cgroup and a network namespace of their
// own.
func supervise(o *Options, args []string, stdout, stderr io.Writer) (err error) {
	s := &supervisor{}
	defer func() { err = errors.Join(err, s.cleanUp()) }()
	if err := s.prepare(o); err != nil {
		return err
	}
	own, err := os.Open(filepath.Join(s.cgroup, "own"))
	if err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	defer own.Close()
	cmd := exec.Command(filepath.Join(s.dir, "bench"), append([]string{asInside, s.dir, s.cgroup}, args...)...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true, CgroupFD: int(own.Fd()), Cloneflags: unix.CLONE_NEWNET,
		Pdeathsig: syscall.SIGTERM, // of the thread that starts it: this one stays
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if o.Pin {
		if err := pin(); err != nil {
			return err
		}
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(asked)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start measuring: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("it ended early (%w), for the reason above", err)
		}
		return nil
	case sig := <-asked:
		// A terminal has told everybody, others have told this process alone.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			return errors.Join(fmt.Errorf("ended by %v", sig), err)
		case <-time.After(patience):
			return fmt.Errorf("ended by %v, and had to be killed", sig)
		}
	}
}

// pin leaves one processor to this thread and to what it starts: the last, since
// the first has most of the interrupts.
func pin() error {
	var one unix.CPUSet
	one.Set(runtime.NumCPU() - 1)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("keep to one processor: %w", err)
	}
	return nil
}

// prepare makes the folder with the programs, and the cgroups.
func (s *supervisor) prepare(o *Options) (err error) {
	if s.dir, err = os.MkdirTemp("", "headgate-bench"); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := os.Chmod(s.dir, 0o755); err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	for name, from := range map[string]string{"headgate": o.Gate, "bench": "/proc/self/exe"} {
		if err := copyProgram(filepath.Join(s.dir, name), from); err != nil {
			return err
		}
	}
	mount, err := cgroup.Mount()
	if err != nil {
		return err
	}
	s.cgroup = filepath.Join(mount, "headgate-bench-"+strconv.Itoa(os.Getpid()))
	for _, name := range []string{"", "own", "server", "gate", "rest"} {
		if err := cgroup.Create(filepath.Join(s.cgroup, name)); err != nil {
			return err
		}
	}
	return raiseDescriptors()
}

// raiseDescriptors lets this process and what it starts have as many as they may:
// thousands of idle sessions have two each in a proxy.
func raiseDescriptors() error {
	const enough = 1 << 16
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read limit of descriptors: %w", err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise limit of descriptors: %w", err)
	}
	if limit.Max < enough {
		limit.Cur, limit.Max = enough, enough
		// Not everybody may; then fewer sessions are measured.
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
	return nil
}

func copyProgram(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy program: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("copy program: %w", err)
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// cleanUp kills what is left in the cgroup, which only this program can have
// put there, and removes what was made.
func (s *supervisor) cleanUp() error {
	var errs []error
	if s.cgroup != "" {
		errs = append(errs, s.removeCgroups())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

func (s *supervisor) removeCgroups() error {
	if _, err := os.Stat(s.cgroup); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.WriteFile(filepath.Join(s.cgroup, "cgroup.kill"), []byte("1"), 0); err != nil {
		return fmt.Errorf("end what was started: %w", err)
	}
	var dirs []string
	err := filepath.WalkDir(s.cgroup, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("find cgroups: %w", err)
	}
	for _, dir := range slices.Backward(dirs) {
		if err := removeWhenEmpty(dir); err != nil {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	return nil
}

// removeWhenEmpty waits until the kernel has buried what was killed.
func removeWhenEmpty(dir string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		err := unix.Rmdir(dir)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
	}
}
