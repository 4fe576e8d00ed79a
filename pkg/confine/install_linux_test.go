package confine

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/pkg/internal/testenv"
)

// childVariable makes the test binary a process of a tree: it holds the steps
// that the process takes, one after the other.
const childVariable = "CONFINE_TEST_STEPS"

const nobody = 65534

func TestMain(m *testing.M) {
	steps := os.Getenv(childVariable)
	if steps == "" {
		os.Exit(m.Run())
	}
	if err := take(strings.Fields(steps)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// take does the first step and goes on with the rest, here or in what it starts.
func take(steps []string) error {
	if len(steps) == 0 {
		return nil
	}
	rest := strings.Join(steps[1:], " ")
	// The environment may name a variable once only: execve passes on all, and of
	// two the first would count.
	next := withSteps(rest)
	switch step := steps[0]; step {
	case "drop":
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
			return err
		}
	case "fork":
		c := exec.Command("/proc/self/exe")
		c.Env, c.Stdout, c.Stderr = next, os.Stdout, os.Stderr
		return c.Run()
	case "exec":
		return syscall.Exec("/proc/self/exe", os.Args, next)
	case "setuid":
		program := steps[1]
		return syscall.Exec(program, []string{program}, withSteps(strings.Join(steps[2:], " ")))
	case "run":
		return syscall.Exec(steps[1], steps[1:2], nil)
	case "probe":
		return json.NewEncoder(os.Stdout).Encode(probe())
	case "euid":
		return json.NewEncoder(os.Stdout).Encode(os.Geteuid())
	case "threads":
		return json.NewEncoder(os.Stdout).Encode(throughThreads())
	default:
		m, err := ParseMode(step)
		if err != nil {
			return err
		}
		got, err := Install(m)
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "in force: %s\n", got)
	}
	return take(steps[1:])
}

func withSteps(steps string) []string {
	environ := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, childVariable+"=")
	})
	return append(environ, childVariable+"="+steps)
}

// family is how an attempt is reported that no name is needed for.
func family(n int) string { return fmt.Sprintf("family %d", n) }

// probe tries everything that the filter is about, and reports what came of it.
func probe() map[string]string {
	results := map[string]string{
		"SOCK_PACKET":        socketError(unix.AF_INET, unix.SOCK_PACKET),
		"garbage and inet":   socketError(0xf<<32|unix.AF_INET, unix.SOCK_STREAM),
		"garbage and packet": socketError(0xf<<32|unix.AF_PACKET, unix.SOCK_RAW),
		"pair unix":          pairError(unix.AF_UNIX),
		"pair tipc":          pairError(unix.AF_TIPC),
		"bpf":                callError(unix.SYS_BPF, 0xffff),
		"io_uring_setup":     callError(unix.SYS_IO_URING_SETUP, 0),
		"io_uring_enter":     callError(unix.SYS_IO_URING_ENTER, ^uintptr(0)),
		"io_uring_register":  callError(unix.SYS_IO_URING_REGISTER, ^uintptr(0)),
	}
	for n := range 64 {
		results[family(n)] = socketError(uintptr(n), unix.SOCK_DGRAM)
	}
	return results
}

func socketError(family, kind uintptr) string {
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, family, kind, 0)
	if errno != 0 {
		return unix.ErrnoName(errno)
	}
	return describe(unix.Close(int(fd)))
}

func pairError(family int) string {
	fds, err := unix.Socketpair(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return describe(err)
	}
	return describe(errors.Join(unix.Close(fds[0]), unix.Close(fds[1])))
}

func callError(number, arg uintptr) string {
	_, _, errno := unix.RawSyscall(number, arg, 0, 0)
	return unix.ErrnoName(errno)
}

func describe(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	default:
		return err.Error()
	}
}

// throughThreads confines the process from one thread, and tries others that
// were there before.
func throughThreads() []string {
	const threads = 8
	results := make([]string, threads)
	confined := make(chan struct{})
	var ready, done sync.WaitGroup
	for i := range threads {
		ready.Add(1)
		done.Go(func() {
			runtime.LockOSThread()
			ready.Done()
			<-confined
			results[i] = socketError(unix.AF_PACKET, unix.SOCK_RAW)
		})
	}
	ready.Wait()
	_, err := Install(Strict)
	close(confined)
	done.Wait()
	if err != nil {
		return []string{err.Error()}
	}
	return results
}

// child runs the test binary through steps and returns what it wrote.
func child(t *testing.T, steps string) (stdout, stderr string, err error) {
	t.Helper()
	c := exec.Command("/proc/self/exe")
	var out, words strings.Builder
	c.Env, c.Stdout, c.Stderr = withSteps(steps), &out, &words
	err = c.Run()
	return out.String(), words.String(), err
}

// report runs the steps, which must go well, and decodes what they report.
func report[T any](t *testing.T, steps string) T {
	t.Helper()
	if err := Supported(); err != nil {
		testenv.Skip(t, err.Error())
	}
	var v T
	stdout, stderr, err := child(t, steps)
	if err != nil {
		t.Fatalf("steps %q: %v: %s", steps, err, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), &v); err != nil {
		t.Fatalf("steps %q: %v in %q", steps, err, stdout)
	}
	return v
}

// confined is what becomes of free, the results of a process without a filter.
func confined(free map[string]string) map[string]string {
	want := map[string]string{
		"SOCK_PACKET":        "EAFNOSUPPORT",
		"garbage and inet":   free["garbage and inet"],
		"garbage and packet": "EAFNOSUPPORT",
		"pair unix":          free["pair unix"],
		"pair tipc":          "EAFNOSUPPORT",
		"bpf":                "EPERM",
		"io_uring_setup":     "ENOSYS",
		"io_uring_enter":     "ENOSYS",
		"io_uring_register":  "ENOSYS",
	}
	for n := range 64 {
		want[family(n)] = "EAFNOSUPPORT"
	}
	for _, n := range []int{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK} {
		want[family(n)] = free[family(n)]
	}
	return want
}

func TestFamiliesThatNoHookSeesAreRefused(t *testing.T) {
	free := report[map[string]string](t, "probe")
	for _, n := range []int{unix.AF_UNIX, unix.AF_INET, unix.AF_NETLINK} {
		if got := free[family(n)]; got != "ok" {
			t.Fatalf("without a filter, %s gives %s", family(n), got)
		}
	}
	for _, steps := range []string{
		"strict probe",
		"strict exec probe",
		"strict fork probe",
		"strict fork exec fork probe",
		"strict strict probe",
	} {
		got := report[map[string]string](t, steps)
		if diff := cmp.Diff(confined(free), got); diff != "" {
			t.Errorf("after %q (-want +got):\n%s", steps, diff)
		}
	}
}

func TestNoneChangesNothing(t *testing.T) {
	free := report[map[string]string](t, "probe")
	if diff := cmp.Diff(free, report[map[string]string](t, "none probe")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestThreadsThatWereThereAreConfined(t *testing.T) {
	for i, got := range report[[]string](t, "threads") {
		if got != "EAFNOSUPPORT" {
			t.Errorf("thread %d gets %s", i, got)
		}
	}
}

func TestPrivilegedOthersKeepTheirSetuidProgramsUnlessAsked(t *testing.T) {
	testenv.Need(t, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SYS_ADMIN)
	free := report[map[string]string](t, "drop probe")
	// Auto: nothing is taken, so nothing is filtered.
	stdout, stderr, err := child(t, "drop auto probe")
	if err != nil || stderr != "in force: none\n" {
		t.Fatalf("auto for a caller without privileges: %v, %q", err, stderr)
	}
	var got map[string]string
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(free, got); diff != "" {
		t.Errorf("auto changes what a caller without privileges may do (-want +got):\n%s", diff)
	}
	if _, stderr, err := child(t, "drop families probe"); err == nil || !strings.Contains(stderr, ErrPrivileges.Error()) {
		t.Errorf("families for a caller without privileges: %v, %q", err, stderr)
	}
	if diff := cmp.Diff(confined(free), report[map[string]string](t, "drop strict probe")); diff != "" {
		t.Errorf("strict for a caller without privileges (-want +got):\n%s", diff)
	}
}

func TestPrivilegedSetuidProgramsWorkBelowRootsFilter(t *testing.T) {
	testenv.Need(t, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SYS_ADMIN)
	program := setuidCopy(t)
	free := report[int](t, "drop fork euid")
	if free != nobody {
		t.Fatalf("a dropped process has uid %d", free)
	}
	rows := []struct {
		mode string
		want int
	}{{"none", 0}, {"auto", 0}, {"families", 0}, {"strict", nobody}}
	for _, r := range rows {
		if got := setuidRun(t, r.mode, program, "euid"); got != fmt.Sprintf("%d\n", r.want) {
			t.Errorf("in mode %s, a setuid program gets %q, want uid %d", r.mode, got, r.want)
		}
	}
	// The filter is in force there all the same.
	var got map[string]string
	if err := json.Unmarshal([]byte(setuidRun(t, "auto", program, "probe")), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(confined(got), got); diff != "" {
		t.Errorf("in a setuid program below the filter (-want +got):\n%s", diff)
	}
}

// setuidCopy makes a copy of the test binary that anybody runs as root.
func setuidCopy(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "confine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Flags&(unix.ST_NOSUID|unix.ST_NOEXEC) != 0 {
		testenv.Skip(t, dir+" is on a file system without setuid programs")
	}
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	path := filepath.Join(dir, "setuid")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close(), os.Chmod(dir, 0o755), os.Chmod(path, 0o755|os.ModeSetuid)); err != nil {
		t.Fatal(err)
	}
	return path
}

// setuidRun confines a process of root, makes it one of nobody, and has that run
// the setuid program.
func setuidRun(t *testing.T, mode, program, step string) string {
	t.Helper()
	c := exec.Command("/proc/self/exe")
	var out, words strings.Builder
	c.Env = withSteps(mode + " drop setuid " + program + " " + step)
	c.Stdout, c.Stderr = &out, &words
	if err := c.Run(); err != nil {
		t.Fatalf("setuid program in mode %s: %v: %s", mode, err, words.String())
	}
	return out.String()
}

// machineCode makes a static x86-64 program of code. What code reads by address
// is at dataAddress.
func machineCode(t *testing.T, code []byte, data ...uint32) string {
	t.Helper()
	const base, headers = 0x400000, 64 + 56
	file := make([]byte, dataAddress-base+4*len(data))
	le := binary.LittleEndian
	copy(file, "\x7fELF\x02\x01\x01")
	le.PutUint16(file[16:], 2)  // ET_EXEC
	le.PutUint16(file[18:], 62) // EM_X86_64
	le.PutUint32(file[20:], 1)
	le.PutUint64(file[24:], base+headers)
	le.PutUint64(file[32:], 64)
	le.PutUint16(file[52:], 64)
	le.PutUint16(file[54:], 56)
	le.PutUint16(file[56:], 1)
	le.PutUint32(file[64:], 1) // PT_LOAD
	le.PutUint32(file[68:], 7) // readable, writable, executable
	le.PutUint64(file[80:], base)
	le.PutUint64(file[88:], base)
	le.PutUint64(file[96:], uint64(len(file)))
	le.PutUint64(file[104:], uint64(len(file)))
	le.PutUint64(file[112:], 0x1000)
	copy(file[headers:], code)
	for i, d := range data {
		le.PutUint32(file[dataAddress-base+4*i:], d)
	}
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, file, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

const dataAddress = 0x400400

// call makes code that does one system call by the given instruction and exits
// with 0, or with the errno.
func call(enter []byte, number, first, second uint32) []byte {
	le := binary.LittleEndian
	code := le.AppendUint32([]byte{0xb8}, number)      // mov eax, number
	code = le.AppendUint32(append(code, 0xbb), first)  // mov ebx, first
	code = le.AppendUint32(append(code, 0xb9), second) // mov ecx, second
	code = append(code, 0x89, 0xdf, 0x89, 0xce)        // mov edi, ebx; mov esi, ecx
	code = append(code, 0x31, 0xd2)                    // xor edx, edx
	code = append(code, enter...)                      //
	code = append(code, 0x31, 0xff, 0x85, 0xc0)        // xor edi, edi; test eax, eax
	code = append(code, 0x79, 0x04, 0xf7, 0xd8)        // jns +4; neg eax
	code = append(code, 0x89, 0xc7)                    // mov edi, eax
	return append(code, 0xb8, 60, 0, 0, 0, 0x0f, 0x05) // mov eax, exit; syscall
}

func TestOldEntriesToTheKernelAreFilteredInARunningProcess(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the machine code is x86-64's")
	}
	int80, fast := []byte{0xcd, 0x80}, []byte{0x0f, 0x05}
	const socketcall, socket32, socket64, bpf32 = 102, 359, 41, 357
	rows := []struct {
		name string
		code []byte
		free syscall.Errno
		want syscall.Errno
	}{
		{"socketcall of socket", call(int80, socketcall, callSocket, dataAddress), 0, unix.EPERM},
		{"32-bit socket of inet", call(int80, socket32, unix.AF_INET, unix.SOCK_STREAM), 0, 0},
		{"32-bit socket of a family without number", call(int80, socket32, 1000, unix.SOCK_STREAM), unix.EAFNOSUPPORT, unix.EAFNOSUPPORT},
		{"32-bit socket of SOCK_PACKET", call(int80, socket32, unix.AF_INET, 9), unix.ESOCKTNOSUPPORT, unix.EAFNOSUPPORT},
		{"32-bit bpf", call(int80, bpf32, 0xffff, 0), unix.EINVAL, unix.EPERM},
		{"x32 socket", call(fast, 0x40000000|socket64, unix.AF_INET, unix.SOCK_STREAM), unix.ENOSYS, unix.ENOSYS},
		{"native socket of inet", call(fast, socket64, unix.AF_INET, unix.SOCK_STREAM), 0, 0},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			path := machineCode(t, r.code, unix.AF_INET, unix.SOCK_STREAM, 0)
			if got := exit(t, exec.Command(path)); got != int(r.free) {
				testenv.Skip(t, fmt.Sprintf("without a filter this kernel answers %d", got))
			}
			c := exec.Command("/proc/self/exe")
			c.Env = withSteps("strict run " + path)
			if got := exit(t, c); got != int(r.want) {
				t.Errorf("exit status %d, want errno %d", got, r.want)
			}
		})
	}
}

func exit(t *testing.T, c *exec.Cmd) int {
	t.Helper()
	err := c.Run()
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode()
}
