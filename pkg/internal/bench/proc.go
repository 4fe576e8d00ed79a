package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// cpuOf returns the processor time that the threads of a process have used, from
// the scheduler's exact account. A thread that has ended is not in it; the
// programs that are measured keep theirs.
func cpuOf(pid int) (time.Duration, error) {
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(names) == 0 {
		return 0, fmt.Errorf("read processor time: process %d is gone", pid)
	}
	var sum time.Duration
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it ended just now
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", name, err)
		}
		sum += time.Duration(n)
	}
	return sum, nil
}

// memory is what a process has of the machine's memory, in bytes.
type memory struct {
	resident     float64
	proportional float64 // what is shared is divided
}

func memoryOf(pid int) (memory, error) {
	fields, err := kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	return memory{fields["Rss"], fields["Pss"]}, err
}

// peakOf returns the most memory that was resident since [resetPeak].
func peakOf(pid int) (float64, error) {
	fields, err := kilobytes(fmt.Sprintf("/proc/%d/status", pid))
	return fields["VmHWM"], err
}

// resetPeak forgets the peak: proc(5), clear_refs.
func resetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// kilobytes reads lines like "Name:  12 kB", as bytes.
func kilobytes(name string) (map[string]float64, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read memory: %w", err)
	}
	found := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "kB" {
			continue
		}
		n, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		found[strings.TrimSuffix(f[0], ":")] = n * 1024
	}
	return found, nil
}

// usage returns what a cgroup and all below it have used, also what has ended.
func usage(cgroup string) (time.Duration, error) {
	name := filepath.Join(cgroup, "cpu.stat")
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "usage_usec "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			return time.Duration(n) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("read %s: no usage_usec", name)
}

// busy returns how long the machine's processors have worked, those that the
// hypervisor took from it included.
func busy() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read the machine's time: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	const tick = 10 * time.Millisecond // USER_HZ is 100 wherever this runs
	var sum time.Duration
	for _, i := range []int{1, 2, 3, 6, 7, 8} { // user, nice, system, irq, softirq, steal: proc(5)
		if i >= len(fields) {
			return 0, fmt.Errorf("read /proc/stat: %q", line)
		}
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read /proc/stat: %w", err)
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// stopwatch counts what the machine, this program and what it started, and some
// processes used.
type stopwatch struct {
	base   string // the cgroup of all that this program started
	server string // the database's
	pids   []int
	start  reading
}

type reading struct {
	at                 time.Time
	busy, ours, server time.Duration
	proxy              time.Duration
}

func (w *stopwatch) read() (r reading, err error) {
	if r.busy, err = busy(); err != nil {
		return r, err
	}
	if r.ours, err = usage(w.base); err != nil {
		return r, err
	}
	if r.server, err = usage(w.server); err != nil {
		return r, err
	}
	for _, pid := range w.pids {
		cpu, err := cpuOf(pid)
		if err != nil {
			return r, err
		}
		r.proxy += cpu
	}
	r.at = time.Now()
	return r, nil
}

// spent is what was used since the stopwatch was started.
type spent struct {
	wall, proxy, server time.Duration
	others              float64 // processors
}

func (w *stopwatch) stop() (spent, error) {
	now, err := w.read()
	if err != nil {
		return spent{}, err
	}
	s := spent{wall: now.at.Sub(w.start.at), proxy: now.proxy - w.start.proxy, server: now.server - w.start.server}
	others := (now.busy - w.start.busy) - (now.ours - w.start.ours)
	// The machine's account is in ticks, and may be a little short of ours.
	s.others = max(0, others.Seconds()/s.wall.Seconds())
	return s, nil
}
