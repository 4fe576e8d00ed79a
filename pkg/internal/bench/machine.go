package bench

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// Machine says what the figures are from.
type Machine struct {
	Processor  string `json:"processor"`
	Processors int    `json:"processors"`
	Kernel     string `json:"kernel"`
	Go         string `json:"go"`
	Gate       string `json:"gate"`
	PostgreSQL string `json:"postgresql"`
	Pgbouncer  string `json:"pgbouncer"`
	Haproxy    string `json:"haproxy"`
}

// describe asks the machine and its programs. What does not answer is left
// empty: it has been running, so it is there.
func describe(o *Options) Machine {
	m := Machine{
		Processors: runtime.NumCPU(), Go: runtime.Version(),
		Kernel: said("uname", "-r"), Gate: said(o.Gate, "version"), PostgreSQL: said("psql", "--version"),
		Pgbouncer: said("pgbouncer", "--version"), Haproxy: said("haproxy", "-v"),
	}
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.Processor = strings.TrimSpace(value)
			break
		}
	}
	return m
}

// said returns the first line of what a program prints.
func said(argv ...string) string {
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// String is a line about the machine.
func (m Machine) String() string {
	return fmt.Sprintf("%d x %s, Linux %s; %s; %s; %s; %s; %s",
		m.Processors, m.Processor, m.Kernel, m.Gate, m.Go, m.PostgreSQL, m.Pgbouncer, m.Haproxy)
}
