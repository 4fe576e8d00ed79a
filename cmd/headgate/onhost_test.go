package main

import (
	"bytes"
	"io/fs"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/config"
)

// The same is said by the command, the daemon's log and the doctor, each with
// what to do.
func TestWarningsAboutTheHostComeWithTheRemedy(t *testing.T) {
	read := func(path string) ([]byte, error) {
		switch path {
		case "/proc/sys/net/ipv4/ip_local_port_range":
			return []byte("32768\t60999\n"), nil
		case "/proc/sys/net/ipv4/ip_local_reserved_ports":
			return []byte("\n"), nil
		}
		return nil, fs.ErrNotExist
	}
	cfg := config.Default()
	said := func() (words, log string, findings []finding) {
		var stderr, out bytes.Buffer
		checkOnHost(env{stderr: &stderr}, cfg, read)
		logger := zerolog.New(&out)
		warnOnHost(&logger, cfg, read)
		return stderr.String(), out.String(), findOnHost(cfg, read)
	}
	if words, log, findings := said(); words+log != "" || len(findings) > 0 {
		t.Errorf("of the defaults is said: %s%s%v", words, log, findings)
	}
	cfg.Intercept.Port = 40000
	words, log, findings := said()
	for _, text := range []string{words, log} {
		if !strings.Contains(text, "intercept.port") || !strings.Contains(text, "ip_local_reserved_ports=40000") || !strings.Contains(text, "warn") {
			t.Errorf("said %q", text)
		}
	}
	if len(findings) != 1 || findings[0].Level != levelNote || findings[0].About != "intercept.port" || findings[0].Remedy == "" {
		t.Errorf("found %+v", findings)
	}
}
