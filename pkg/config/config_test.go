package config

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/policy"
)

// write makes a directory of files and returns its path.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// load reads a configuration of files; the main one is headgate.yaml. Errors
// have the directory's name taken out.
func load(t *testing.T, files map[string]string) (*Config, string) {
	t.Helper()
	dir := write(t, files)
	c, err := Load(filepath.Join(dir, "headgate.yaml"))
	if err != nil {
		if c != nil {
			t.Error("an error and a configuration")
		}
		return nil, strings.ReplaceAll(err.Error(), dir+"/", "")
	}
	return c, ""
}

func TestTheDefaultsAreGood(t *testing.T) {
	if err := Check(Default()); err != nil {
		t.Error(err)
	}
	c, err := load(t, map[string]string{"headgate.yaml": "version: 1\n"})
	if err != "" {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c); diff != "" {
		t.Errorf("an empty configuration (-default +loaded):\n%s", diff)
	}
}

const everything = `
version: 1
intercept: {cgroup: /sys/fs/cgroup, pin_dir: "", port: 9000, heartbeat: 1m30s}
policies: /p
state: /s
control: {socket: /c.sock}
metrics: {listen: "[::1]:1"}
credentials:
  app-db: {from: "file:/run/secret", username: app, hosts: ["db.internal:5432", "10.0.3.0/24:5432", "[::1]:5432"]}
  other: {from: "systemd:other", hosts: ["10.0.0.1:1"]}
  dev: {from: "env:DEV", hosts: ["10.0.0.1:1"]}
record: {level: statements, max_bytes_per_operation: 0B, max_bytes_per_session: 1GiB}
audit: {durability: fsync, segment_size: 1MiB}
limits: {sessions: 1, sessions_per_tree: 3, processes: 2, statement_bytes: 1KiB, message_bytes: 1025B, attribute: 1s, detect: 2s, drain: 0s}
protocols: {shortcuts: off}
log: {level: debug, format: console}
`

func TestEveryKeyIsRead(t *testing.T) {
	c, err := load(t, map[string]string{"headgate.yaml": everything})
	if err != "" {
		t.Fatal(err)
	}
	want := &Config{
		Version:   1,
		Intercept: Intercept{Cgroup: "/sys/fs/cgroup", Port: 9000, Heartbeat: Duration(90 * time.Second)},
		Policies:  "/p", Mode: Enforce, WatchPolicies: true, State: "/s", Control: Control{Socket: "/c.sock"}, Metrics: Metrics{Listen: "[::1]:1"},
		Credentials: map[string]Credential{
			"app-db": {From: "file:/run/secret", Username: "app", Hosts: []string{"db.internal:5432", "10.0.3.0/24:5432", "[::1]:5432"}},
			"other":  {From: "systemd:other", Hosts: []string{"10.0.0.1:1"}},
			"dev":    {From: "env:DEV", Hosts: []string{"10.0.0.1:1"}},
		},
		Record: Record{Level: Statements, MaxBytesPerSession: 1 << 30},
		Audit:  Audit{Durability: Fsync, SegmentSize: 1 << 20},
		Limits: Limits{
			Sessions: 1, SessionsPerTree: 3, Processes: 2, StatementBytes: 1024, MessageBytes: 1025,
			Attribute: Duration(time.Second), Detect: Duration(2 * time.Second),
		},
		Protocols: Protocols{Shortcuts: Off},
		Log:       Log{Level: "debug", Format: "console"},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

func TestWhatIsPrintedIsReadAgain(t *testing.T) {
	full, err := load(t, map[string]string{"headgate.yaml": everything})
	if err != "" {
		t.Fatal(err)
	}
	for _, c := range []*Config{Default(), full} {
		text, err := Print(c)
		if err != nil {
			t.Fatal(err)
		}
		again, message := load(t, map[string]string{"headgate.yaml": string(text)})
		if message != "" {
			t.Fatalf("%s\n%s", message, text)
		}
		if len(again.Credentials) == 0 {
			again.Credentials = c.Credentials
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Errorf("printed (-want +got):\n%s\n%s", diff, text)
		}
	}
}

func TestDropInsReplaceWhatTheyMentionInOrderOfNames(t *testing.T) {
	c, err := load(t, map[string]string{
		"headgate.yaml":             "version: 1\nlimits: {sessions: 1, processes: 1}\ncredentials:\n  a: {from: 'env:A', username: a, hosts: ['10.0.0.1:1']}\n  b: {from: 'env:B', hosts: ['10.0.0.1:1']}\n",
		"conf.d/20-b.yaml":          "limits: {sessions: 3}\n",
		"conf.d/10-a.yaml":          "limits: {sessions: 2}\ncredentials:\n  a: {from: 'env:C', hosts: ['10.0.0.2:1']}\n",
		"conf.d/.hidden.yaml":       "no: yes\n",
		"conf.d/README":             "no: yes\n",
		"conf.d/dir.yaml/file.yaml": "no: yes\n",
	})
	if err != "" {
		t.Fatal(err)
	}
	if c.Limits.Sessions != 3 || c.Limits.Processes != 1 {
		t.Errorf("limits %+v", c.Limits)
	}
	want := map[string]Credential{"a": {From: "env:C", Hosts: []string{"10.0.0.2:1"}}, "b": {From: "env:B", Hosts: []string{"10.0.0.1:1"}}}
	if diff := cmp.Diff(want, c.Credentials); diff != "" {
		t.Errorf("a credential is replaced as a whole (-want +got):\n%s", diff)
	}
}

func TestMistakesAreReportedWithTheirPlace(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"unknown key", map[string]string{"headgate.yaml": "version: 1\nlimit: {}\n"},
			`headgate.yaml:2:1: unknown key "limit", want one of version, intercept, policies, mode, watch_policies, state, control, metrics, credentials, record, audit, limits, protocols, log`},
		{"in a drop-in", map[string]string{"headgate.yaml": "version: 1\n", "conf.d/a.yaml": "state: 5\n"},
			"conf.d/a.yaml:1:8: state: want a string, found a number; put it in quotes"},
		{"wrong value in a drop-in", map[string]string{"headgate.yaml": "version: 1\n", "conf.d/a.yaml": "log: {level: loud}\n", "conf.d/b.yaml": "limits: {sessions: 1}\n"},
			"conf.d/a.yaml:1:14: log.level: want debug or info or warn or error"},
		{"several files", map[string]string{"headgate.yaml": "version: 1\naudit: {durability: []}\n", "conf.d/a.yaml": "x: 1\n"},
			"headgate.yaml:2:21: audit.durability: want a string, found a list\n" +
				`conf.d/a.yaml:1:1: unknown key "x", want one of version, intercept, policies, mode, watch_policies, state, control, metrics, credentials, record, audit, limits, protocols, log`},
		{"units", map[string]string{"headgate.yaml": "intercept: {heartbeat: 5, port: 65536}\nlimits: {drain: -1s, statement_bytes: 1MB, sessions: -1}\n"},
			"headgate.yaml:1:24: intercept.heartbeat: \"5\" is not a duration, as in 2s or 1m30s\n" +
				"headgate.yaml:1:33: intercept.port: want a decimal integer from 0 to 65535, found a number\n" +
				"headgate.yaml:2:17: limits.drain: \"-1s\" is not a duration, as in 2s or 1m30s\n" +
				"headgate.yaml:2:39: limits.statement_bytes: \"1MB\" is not a size, as in 512B, 64KiB, 16MiB or 1GiB\n" +
				"headgate.yaml:2:54: limits.sessions: want a decimal integer from 0 to 4294967295, found a number"},
		{"meaning", map[string]string{"headgate.yaml": "version: 2\nintercept: {cgroup: x, pin_dir: /a/, port: 0, heartbeat: 1ms}\npolicies: ./p\nmetrics: {listen: localhost}\nlimits: {message_bytes: 1KiB, sessions: 0}\n"},
			"headgate.yaml:1:10: version: want 1\n" +
				"headgate.yaml:2:21: intercept.cgroup: want a clean absolute path\n" +
				"headgate.yaml:2:33: intercept.pin_dir: want a clean absolute path\n" +
				"headgate.yaml:2:44: intercept.port: want a port from 1 to 65535\n" +
				"headgate.yaml:2:58: intercept.heartbeat: want 1s to 5m0s\n" +
				"headgate.yaml:3:11: policies: want a clean absolute path\n" +
				"headgate.yaml:4:19: metrics.listen: want an address and a port, as in 127.0.0.1:9641, or nothing\n" +
				"headgate.yaml:5:25: limits.message_bytes: want at least limits.statement_bytes\n" +
				"headgate.yaml:5:41: limits.sessions: want 1 to 1048576"},
		{"empty", map[string]string{"headgate.yaml": "\n"}, "headgate.yaml:1:1: the file is empty"},
		{"would be ignored", map[string]string{"headgate.yaml": "version: 1\n", "conf.d/a.yml": ""},
			"list directory: conf.d/a.yml would not be read: rename it to end in .yaml"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, got := load(t, test.files)
			if diff := cmp.Diff(strings.Split(test.want, "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestASecretInTheConfigurationIsRefusedAndNotRepeated(t *testing.T) {
	const canary = "c4n4ry"
	for _, entry := range []string{
		"from: " + canary, "from: 'password:" + canary + "'", "from: 'postgres://app:" + canary + "@db/x'", "from: ':" + canary + "'",
		"from: [" + canary + "]", "from: {password: " + canary + "}", "from: 'env:A', password: " + canary, "from: 'file:" + canary + "'",
	} {
		_, err := load(t, map[string]string{"headgate.yaml": "credentials:\n  a: {hosts: ['10.0.0.1:1'], " + entry + "}\n"})
		if err == "" {
			t.Errorf("%s is accepted", entry)
		}
		if strings.Contains(err, canary) {
			t.Errorf("the secret is repeated: %s", err)
		}
	}
	_, err := load(t, map[string]string{"headgate.yaml": "credentials:\n  a: {from: hunter2, password: x, hosts: ['10.0.0.1:1']}\n"})
	if want := `unknown key "password", want one of from, username, hosts, certificate, key, methods, placeholder; a secret never stands in the configuration: put it into a file of mode 0600`; !strings.Contains(err, want) {
		t.Errorf("no hint: %s", err)
	}
}

func TestACredentialIsBound(t *testing.T) {
	for entry, want := range map[string]string{
		"from: 'env:A'":                           "credentials.a.hosts: required",
		"hosts: ['10.0.0.1:1']":                   "credentials.a.from: required",
		"from: 'env:A', hosts: []":                "credentials.a.hosts is an empty list",
		"from: 'env:A', hosts: ['0.0.0.0/0:1']":   "cannot be bound to every address",
		"from: 'env:A', hosts: ['10.0.0.1']":      "no port",
		"from: 'vault:x', hosts: ['10.0.0.1:1']":  "source vault: is not available yet",
		"from: 'systemd:../x', hosts: ['[::]:1']": "want the plain name",

		"certificate: /c, hosts: ['10.0.0.1:1']":                          "credentials.a.key: required",
		"certificate: c, key: 'env:K', hosts: ['10.0.0.1:1']":             "credentials.a.certificate: want a clean absolute path",
		"certificate: /c, key: '-----BEGIN', hosts: ['10.0.0.1:1']":       "credentials.a.key: not a reference to a secret",
		"from: 'env:A', key: 'env:K', hosts: ['10.0.0.1:1']":              "credentials.a.certificate: required with key",
		"from: 'env:A', methods: [scram], hosts: ['10.0.0.1:1']":          "credentials.a.methods[0]: want scram-sha-256-plus or",
		"from: 'env:A', methods: [md5, md5], hosts: ['10.0.0.1:1']":       "credentials.a.methods[1]: md5 is there twice",
		"from: 'env:A', placeholder: \"a\\nb\", hosts: ['10.0.0.1:1']":    "credentials.a.placeholder: want 1 to 128 printable characters",
		"from: 'rds-iam:', username: u, hosts: ['db:1']":                  "credentials.a.from: want a region",
		"from: 'rds-iam:eu west', username: u, hosts: ['db:1']":           "credentials.a.from: want a region",
		"from: 'rds-iam:eu-west-1', hosts: ['db:1']":                      "credentials.a.username: required with rds-iam",
		"from: 'rds-iam:eu-west-1', username: u, hosts: ['10.0.0.1:1']":   "credentials.a.hosts[0]: want the name of the endpoint",
		"from: 'rds-iam:e', username: u, methods: [md5], hosts: ['db:1']": "credentials.a.methods[0]: want password with rds-iam",
	} {
		if _, err := load(t, map[string]string{"headgate.yaml": "credentials:\n  a: {" + entry + "}\n"}); !strings.Contains(err, want) {
			t.Errorf("%s: %q, want %q", entry, err, want)
		}
	}
}

func TestCredentialsAreWhatTheStoreUnderstands(t *testing.T) {
	c, message := load(t, map[string]string{"headgate.yaml": strings.ReplaceAll(everything, "systemd:", "env:")})
	if message != "" {
		t.Fatal(message)
	}
	if diff := cmp.Diff([]string{"db.internal"}, c.CredentialHosts()); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
	specs := c.CredentialSpecs(map[string][]netip.Addr{"db.internal": {netip.MustParseAddr("::ffff:10.1.1.1"), {}}})
	want := []string{"10.1.1.1:5432", "10.0.3.0/24:5432", "[::1]:5432"}
	if diff := cmp.Diff(want, specs[0].Hosts); diff != "" {
		t.Errorf("hosts of %s (-want +got):\n%s", specs[0].Name, diff)
	}
	if _, err := credential.New(specs); err != nil {
		t.Error(err)
	}
	if got := c.CredentialSpecs(nil)[0].Hosts; len(got) != 2 {
		t.Errorf("a name without addresses is bound to %q", got)
	}
}

func TestEveryKindOfCredentialIsAccepted(t *testing.T) {
	c, message := load(t, map[string]string{"headgate.yaml": `credentials:
  a: {certificate: /c.crt, key: "file:/c.key", username: app, methods: [none], hosts: ["db:5432"]}
  b: {from: "rds-iam:eu-central-1", username: app, methods: [password], hosts: ["db:5432"]}
  c: {from: "env:C", username: app, methods: [scram-sha-256-plus, scram-sha-256], placeholder: harmless, hosts: ["10.0.0.1:5432"]}
`})
	if message != "" {
		t.Fatal(message)
	}
	at := netip.MustParseAddr("10.1.1.1")
	specs := c.CredentialSpecs(map[string][]netip.Addr{"db": {at}})
	want := []credential.Spec{
		{
			Name: "a", Username: "app", Methods: []string{"none"}, Certificate: "/c.crt", Key: "file:/c.key",
			Hosts: []string{"10.1.1.1:5432"}, Endpoints: map[netip.AddrPort]string{netip.AddrPortFrom(at, 5432): "db:5432"},
		},
		{
			Name: "b", Username: "app", From: "rds-iam:eu-central-1", Methods: []string{"password"},
			Hosts: []string{"10.1.1.1:5432"}, Endpoints: map[netip.AddrPort]string{netip.AddrPortFrom(at, 5432): "db:5432"},
		},
		{
			Name: "c", Username: "app", From: "env:C", Methods: []string{"scram-sha-256-plus", "scram-sha-256"}, Placeholder: "harmless",
			Hosts: []string{"10.0.0.1:5432"}, Endpoints: map[netip.AddrPort]string{},
		},
	}
	if diff := cmp.Diff(want, specs, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("specs (-want +got):\n%s", diff)
	}
	mint := func(context.Context, string, string, string) ([]byte, error) { return nil, nil }
	if _, err := credential.New(specs, credential.WithRDS(mint)); err != nil {
		t.Error(err)
	}
}

func TestFilesThatAreNotSafeAreNotRead(t *testing.T) {
	dir := write(t, map[string]string{"headgate.yaml": "version: 1\n"})
	path := filepath.Join(dir, "headgate.yaml")
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "can be written by everybody") {
		t.Errorf("error %v", err)
	}
	if _, err := Load(filepath.Join(dir, "missing.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	fifo := filepath.Join(dir, "fifo.yaml")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(fifo); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("error %v", err)
	}
}

func TestPoliciesAreReadExceptTheirTests(t *testing.T) {
	dir := write(t, map[string]string{
		"b.yaml": "version: 1\n", "a.yaml": "version: 1\n", "a_test.yaml": "tests: []\n", "README.md": "#", ".x.yaml": "", "sub/c.yaml": "",
	})
	files, err := LoadPolicies(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(f.Name()))
	}
	if diff := cmp.Diff([]string{"a.yaml", "b.yaml"}, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}

	dir = write(t, map[string]string{"a.yaml": "version: 2\n", "b.yaml": "version: 1\n", "c.yaml": "x: 1\n"})
	_, err = LoadPolicies(dir)
	for _, want := range []string{"a.yaml:1:10: version", "c.yaml:1:1: unknown key"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	var list policy.Errors
	if !errors.As(err, &list) {
		t.Errorf("error %T", err)
	}
	if _, err := LoadPolicies(filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if _, err := LoadPolicies(write(t, map[string]string{"a.yml": ""})); err == nil {
		t.Error("a.yml is silently not applied")
	}
}

func TestTestsOfPoliciesAreReadWithTheFilesThatTheyAreAbout(t *testing.T) {
	tests := "version: 1\ntests: [{name: n, target: '192.0.2.1:1', connect: true, expect: deny}]\n"
	dir := write(t, map[string]string{
		"a.yaml": "version: 1\n", "b.yaml": "version: 1\n", "c.yaml": "version: 1\n", ".x.yaml": "?",
		"a_test.yaml": tests, "b_test.yaml": "files: [c.yaml, b.yaml]\n" + tests,
	})
	for _, test := range []struct {
		name  string
		paths []string
		want  []string
	}{
		{"a directory", []string{"."}, []string{"a_test.yaml: a.yaml b.yaml c.yaml", "b_test.yaml: b.yaml c.yaml"}},
		{"a policy file", []string{"a.yaml"}, []string{"a_test.yaml: a.yaml"}},
		{"policy files", []string{"c.yaml", "a.yaml"}, []string{"a_test.yaml: a.yaml c.yaml"}},
		{"a policy file whose tests list others", []string{"b.yaml"}, []string{"b_test.yaml: b.yaml c.yaml"}},
		{"tests", []string{"a_test.yaml"}, []string{"a_test.yaml: a.yaml b.yaml c.yaml"}},
		{"tests and a policy file", []string{"a_test.yaml", "c.yaml"}, []string{"a_test.yaml: c.yaml"}},
		{"the same twice", []string{".", "a_test.yaml"}, []string{"a_test.yaml: a.yaml b.yaml c.yaml", "b_test.yaml: b.yaml c.yaml"}},
	} {
		var paths []string
		for _, p := range test.paths {
			paths = append(paths, filepath.Join(dir, p))
		}
		suites, err := LoadPolicyTests(paths...)
		var got []string
		for _, s := range suites {
			line := filepath.Base(s.Tests.Name()) + ":"
			for _, f := range s.Policies {
				line += " " + filepath.Base(f.Name())
			}
			got = append(got, line)
		}
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", test.name, err, diff)
		}
	}
}

func TestEveryMistakeInTestsOfPoliciesIsReported(t *testing.T) {
	dir := write(t, map[string]string{
		"a.yaml": "version: 2\n", "a_test.yaml": "version: 1\ntest: []\n",
		"b_test.yaml": "version: 1\nfiles: [gone.yaml]\ntests: [{name: n, target: '192.0.2.1:1', connect: true, expect: deny}]\n",
		"c_test.yaml": "version: 1\ntests: [{name: n, target: '192.0.2.1:1', connect: true, expect: deny}]\n",
	})
	_, err := LoadPolicyTests(dir, filepath.Join(dir, "missing"))
	for _, want := range []string{"a.yaml:1:10: version", "a_test.yaml:2:1: unknown key", `b_test.yaml:2:9: file "gone.yaml"`, "missing"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if _, err := LoadPolicyTests(write(t, map[string]string{"a.yaml": "version: 1\n"})); err == nil || !strings.Contains(err.Error(), "NAME_test.yaml") {
		t.Errorf("no tests at all: %v", err)
	}
}

func FuzzSizeAndDurationRoundTrip(f *testing.F) {
	for _, s := range []string{"1B", "64KiB", "1025B", "3GiB", "1m30s", "0s", "99999999999GiB", "-1B", "1.5h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var s, s2 Size
		if s.UnmarshalText([]byte(text)) == nil {
			if err := s2.UnmarshalText([]byte(s.String())); err != nil || s2 != s || s < 0 {
				t.Errorf("%q is %v, then %v: %v", text, s, s2, err)
			}
		}
		var d, d2 Duration
		if d.UnmarshalText([]byte(text)) == nil {
			if err := d2.UnmarshalText([]byte(d.String())); err != nil || d2 != d || d < 0 {
				t.Errorf("%q is %v, then %v: %v", text, d, d2, err)
			}
		}
	})
}
