package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// wrappers are odd manners of coming about. What follows their own arguments is
// the way to try.
func wrappers() map[string]attempt {
	return map[string]attempt{
		"vfork":       func(a []string) (string, error) { return "", child(a, nil) },
		"double-fork": doubleFork,
		"bare":        bare,
		"nest":        nest,  // N
		"storm":       storm, // N
		"deleted":     deleted,
		"unlinked":    unlinked,
		"memfd":       memfd,
		"script":      script,
		"setuid":      setuid,      // PROGRAM, which is setuid
		"chroot":      chroot,      // DIR, in a user namespace of its own
		"chrooted":    chrooted,    // DIR
		"userns-net":  usernsNet,   // user and network namespaces of its own
		"netns":       netns,       // root: a network namespace of its own
		"netns-back":  netnsBack,   // root: the same, then back into that of the parent
		"join-netns":  joinNetns,   // FILE: this thread alone
		"exec-netns":  execNetns,   // FILE: the process
		"retry":       retry,       // for as long as it is refused, for a while
		"cgroup":      enterCgroup, // DIR
		"recycled":    recycled,
		"files":       sharedFiles,
	}
}

func self(args []string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	return cmd
}

// child runs the rest as a child and waits. Go starts children with
// CLONE_VFORK and CLONE_VM.
func child(args []string, prepare func(*exec.Cmd)) error {
	need(args, 1)
	cmd := self(args)
	if prepare != nil {
		prepare(cmd)
	}
	return ran(cmd)
}

func ran(cmd *exec.Cmd) error {
	// That the child could not be started is no refusal of the way: the errno
	// must not look like one.
	if err := cmd.Run(); err != nil {
		return errors.New(err.Error())
	}
	return errSaid
}

// leave starts the rest and does not wait for it.
func leave(args []string, prepare func(*exec.Cmd)) error {
	cmd := self(args)
	prepare(cmd)
	if err := cmd.Start(); err != nil {
		return errors.New(err.Error())
	}
	return errSaid
}

func doubleFork(args []string) (string, error) {
	need(args, 1)
	return "", leave(append([]string{"nest", "1"}, args...), func(cmd *exec.Cmd) { cmd.SysProcAttr.Setsid = true })
}

// bare is without any environment.
func bare(args []string) (string, error) {
	need(args, 1)
	return "", at("exec", unix.Exec("/proc/self/exe", append([]string{"escape"}, args...), nil))
}

// nest is N generations, each of which is gone before the next but one begins.
func nest(args []string) (string, error) {
	need(args, 2)
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	rest := args[1:]
	if n > 1 {
		rest = append([]string{"nest", strconv.Itoa(n - 1)}, rest...)
	}
	return "", leave(rest, func(*exec.Cmd) {})
}

// storm is N images of one process.
func storm(args []string) (string, error) {
	need(args, 2)
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	rest := args[1:]
	if n > 1 {
		rest = append([]string{"storm", strconv.Itoa(n - 1)}, rest...)
	}
	return "", at("exec", unix.Exec("/proc/self/exe", append([]string{"escape"}, rest...), os.Environ()))
}

// copyOf writes this program to a file.
func copyOf(to *os.File) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	_, err = io.Copy(to, from)
	return err
}

// deleted runs a copy that removes itself first.
func deleted(args []string) (string, error) {
	need(args, 1)
	dir, err := os.MkdirTemp("", "escape")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "copy")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		return "", err
	}
	if err := errors.Join(copyOf(f), f.Close()); err != nil {
		return "", err
	}
	return "", at("exec", unix.Exec(path, append([]string{path, "unlinked"}, args...), os.Environ()))
}

func unlinked(args []string) (string, error) {
	need(args, 1)
	if err := os.RemoveAll(filepath.Dir(os.Args[0])); err != nil {
		return "", err
	}
	return ways()[args[0]](args[1:])
}

// memfd runs a copy that is in no file system.
func memfd(args []string) (string, error) {
	need(args, 1)
	fd, err := unix.MemfdCreate("escape", 0)
	if err != nil {
		return "", at("memfd_create", lacking(err))
	}
	if err := copyOf(os.NewFile(uintptr(fd), "memfd")); err != nil {
		return "", err
	}
	// Open for writing it could not be executed.
	readable, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY, 0)
	if err != nil {
		return "", at("open memfd", err)
	}
	if err := unix.Close(fd); err != nil {
		return "", at("close memfd", err)
	}
	return "", at("exec", unix.Exec("/proc/self/fd/"+strconv.Itoa(readable), append([]string{"escape"}, args...), os.Environ()))
}

func script(args []string) (string, error) {
	need(args, 1)
	dir, err := os.MkdirTemp("", "escape")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "script")
	text := fmt.Sprintf("#!/bin/sh\n%s '%s'\n", program, strings.Join(args, "' '"))
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		return "", err
	}
	cmd := exec.Command(path)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return "", ran(cmd)
}

func setuid(args []string) (string, error) {
	need(args, 2)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return "", ran(cmd)
}

// asRoot gives a child a user namespace in which it is root.
func asRoot(flags uintptr) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | flags
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
}

func chroot(args []string) (string, error) {
	need(args, 2)
	return "", child(append([]string{"chrooted"}, args...), asRoot(0))
}

func chrooted(args []string) (string, error) {
	need(args, 2)
	if err := unix.Chroot(args[0]); err != nil {
		return "", at("chroot", err)
	}
	return ways()[args[1]](args[2:])
}

func usernsNet(args []string) (string, error) {
	return "", child(args, asRoot(syscall.CLONE_NEWNET))
}

func netns(args []string) (string, error) {
	return "", child(args, func(cmd *exec.Cmd) { cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET })
}

func netnsBack(args []string) (string, error) {
	home := fmt.Sprintf("/proc/%d/ns/net", os.Getpid())
	return netns(append([]string{"join-netns", home}, args...))
}

func joinNetns(args []string) (string, error) {
	need(args, 2)
	return inNetns(args[0], func() (string, error) { return ways()[args[1]](args[2:]) })
}

// execNetns executes in another namespace, which makes it that of the process:
// the other threads end.
func execNetns(args []string) (string, error) {
	need(args, 2)
	return inNetns(args[0], func() (string, error) {
		return "", at("exec", unix.Exec("/proc/self/exe", append([]string{"escape"}, args[1:]...), os.Environ()))
	})
}

func inNetns(file string, f func() (string, error)) (string, error) {
	return elsewhere(func() (string, error) {
		fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", at("open namespace", err)
		}
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return "", at("enter namespace", err)
		}
		return f()
	})
}

// retry is for what is refused until the daemon has come.
func retry(args []string) (string, error) {
	need(args, 1)
	deadline := time.Now().Add(patience)
	for {
		reply, err := ways()[args[0]](args[1:])
		if !errors.Is(err, unix.EPERM) || time.Now().After(deadline) {
			return reply, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func enterCgroup(args []string) (string, error) {
	need(args, 2)
	if err := os.MkdirAll(args[0], 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(args[0], "cgroup.procs"), []byte("0"), 0); err != nil {
		return "", err
	}
	return ways()[args[1]](args[2:])
}
