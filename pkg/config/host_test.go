package config

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
)

func TestPortsThatTheKernelGivesToOthersAreWarnedOf(t *testing.T) {
	type files map[string]string
	const usual = "32768\t60999\n"
	for name, c := range map[string]struct {
		port    uint16
		metrics string
		files   files
		want    []string // in the warnings, one each
	}{
		"the defaults":          {9640, "127.0.0.1:9641", files{portRangePath: usual}, nil},
		"in the range":          {40000, "", files{portRangePath: usual, reservedPortsPath: "\n"}, []string{"ip_local_reserved_ports=40000"}},
		"at its beginning":      {32768, "", files{portRangePath: usual, reservedPortsPath: "\n"}, []string{"=32768"}},
		"at its end":            {60999, "", files{portRangePath: usual, reservedPortsPath: "\n"}, []string{"=60999"}},
		"below":                 {32767, "", files{portRangePath: usual}, nil},
		"above":                 {61000, "", files{portRangePath: usual}, nil},
		"reserved":              {40000, "", files{portRangePath: usual, reservedPortsPath: "80,40000\n"}, nil},
		"in a reserved range":   {40000, "", files{portRangePath: usual, reservedPortsPath: "39990-40000,50000\n"}, nil},
		"beside what is":        {40000, "", files{portRangePath: usual, reservedPortsPath: "8080,40001-40010\n"}, []string{"=8080,40001-40010,40000"}},
		"a wider range":         {9640, "", files{portRangePath: "1024 65535\n", reservedPortsPath: "\n"}, []string{"(1024-65535)"}},
		"metrics":               {9640, "[::]:50000", files{portRangePath: usual, reservedPortsPath: "\n"}, []string{"metrics.listen: port 50000"}},
		"both":                  {50001, "127.0.0.1:50000", files{portRangePath: usual, reservedPortsPath: "\n"}, []string{"intercept.port", "metrics.listen"}},
		"not told":              {40000, "", files{}, nil},
		"not readable":          {40000, "", files{portRangePath: "error"}, []string{"not known"}},
		"not understood":        {40000, "", files{portRangePath: "32768\n"}, []string{"not two ports"}},
		"a list that is no one": {40000, "", files{portRangePath: usual, reservedPortsPath: "no ports\n"}, []string{"not a list of ports"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Default()
			cfg.Intercept.Port, cfg.Metrics.Listen = c.port, c.metrics
			got := OnHost(cfg, func(path string) ([]byte, error) {
				text, ok := c.files[path]
				switch {
				case !ok:
					return nil, fs.ErrNotExist
				case text == "error":
					return nil, errors.New("no permission")
				}
				return []byte(text), nil
			})
			if len(got) != len(c.want) {
				t.Fatalf("got %q, want %q", got, c.want)
			}
			for i, w := range got {
				if text := w.String() + " " + w.Remedy; !strings.Contains(text, c.want[i]) {
					t.Errorf("warning %q, want %q", text, c.want[i])
				}
			}
		})
	}
}
