// Package config reads the daemon's configuration: one file, its drop-ins, and
// the policy files that it points to.
//
// The configuration is /etc/headgate/headgate.yaml. Files named *.yaml in the
// directory conf.d beside it are read after it, in the order of their names:
// what they mention replaces what was there, a credential as a whole. Unknown
// keys, duplicate keys and values of another type are errors with file, line and
// column. Durations are written as in "2s" or "1m30s", sizes as in "64MiB".
//
// No secret stands in the configuration. A credential says where its secret is.
//
// The comments of [Config] and the types below it are the reference of the
// format, [Default] is what holds where a file says nothing.
package config

import (
	"time"
)

// Config is the whole configuration.
type Config struct {
	// Version is the version of this format: 1.
	Version int `yaml:"version"`
	// Intercept is how connections come to the daemon.
	Intercept Intercept `yaml:"intercept"`
	// Policies is the directory with the policy files.
	Policies string `yaml:"policies"`
	// Mode is observe, where nothing of the policy acts and all of it is told, or
	// enforce, where the policy's own modes hold.
	Mode Mode `yaml:"mode"`
	// WatchPolicies says that the directory is read again whenever it changed, and
	// not only when that is asked for.
	WatchPolicies bool `yaml:"watch_policies"`
	// State is the directory for the audit log and the recordings. It is made
	// where it is missing, and belongs to the daemon alone.
	State string `yaml:"state"`
	// Control is the socket for the command line.
	Control Control `yaml:"control"`
	// Metrics is the page for Prometheus.
	Metrics Metrics `yaml:"metrics"`
	// Credentials are what resources of the policy refer to by name.
	Credentials map[string]Credential `yaml:"credentials"`
	// Record is what is kept of sessions.
	Record Record `yaml:"record"`
	// Audit is the log of what was decided.
	Audit Audit `yaml:"audit"`
	// Limits is what one daemon takes on.
	Limits Limits `yaml:"limits"`
	// Protocols is how what agents speak is read.
	Protocols Protocols `yaml:"protocols"`
	// Log is what the daemon says about itself, on standard error.
	Log Log `yaml:"log"`
}

// Intercept is how connections come to the daemon.
type Intercept struct {
	// Cgroup is the cgroup v2 directory that the programs are attached to;
	// processes outside are never mediated. Empty means the root of the mount.
	Cgroup string `yaml:"cgroup"`
	// PinDir is the directory on a BPF file system where programs and maps stay
	// while the daemon restarts. Empty keeps nothing: agents are then free
	// whenever the daemon does not run.
	PinDir string `yaml:"pin_dir"`
	// Port is the TCP port on 127.0.0.1 and ::1 that connections are redirected
	// to.
	Port uint16 `yaml:"port"`
	// Heartbeat is how long after the daemon's last sign of life the kernel
	// refuses the connections of agents. At least 1s.
	Heartbeat Duration `yaml:"heartbeat"`
}

// Control is the socket for the command line.
type Control struct {
	// Socket is the path of the unix socket. Everybody may connect; what a caller
	// may do depends on its user id.
	Socket string `yaml:"socket"`
}

// Metrics is the page for Prometheus.
type Metrics struct {
	// Listen is the address and port; empty opens none.
	Listen string `yaml:"listen"`
}

// Credential is an account at an upstream, and where its secret is.
type Credential struct {
	// From is where the secret is: file:/path (not readable by others), systemd:NAME
	// (LoadCredential= in the unit), or env:NAME (for development). With
	// rds-iam:REGION a token for the IAM authentication of Amazon RDS is made for
	// each login, signed with what the AWS SDK finds by default (environment,
	// shared configuration, web identity, role of the instance); it is sent to a
	// resource with tls.verify full and to no other. Required, unless there is a
	// certificate.
	From string `yaml:"from"`
	// Username is the account's name.
	Username string `yaml:"username"`
	// Hosts are the only destinations that receive the secret, written as hosts
	// of resources: name:port, address:port or prefix:port. Required. For rds-iam
	// they are the names of the endpoints.
	Hosts []string `yaml:"hosts"`
	// Certificate is the path of a PEM file with the certificate that TLS shows to
	// the upstream, and the ones between it and its authority. It is read for each
	// session.
	Certificate string `yaml:"certificate,omitempty"`
	// Key is where the certificate's private key is: file:/path, systemd:NAME or
	// env:NAME, in PEM, without a passphrase.
	Key string `yaml:"key,omitempty"`
	// Methods are the only ways to log in that are answered, as pg_hba.conf calls
	// them: scram-sha-256-plus (bound to the target's certificate), scram-sha-256
	// (either), md5, password (over verified TLS, and never otherwise) and none (the
	// target asks for nothing: it trusts, or knows the certificate). By default all
	// are, the strongest that the target offers first.
	Methods []string `yaml:"methods,omitempty"`
	// Placeholder is a password for agents to have in the secret's stead, of 1 to
	// 128 printable characters of ASCII. It is no secret: it opens nothing but the
	// gate, to those who stand in front of it anyway. With one, agents have to log
	// in with it by SCRAM-SHA-256, which is what clients with
	// require_auth=scram-sha-256 or channel_binding=require want. Without, they are
	// asked for nothing.
	Placeholder string `yaml:"placeholder,omitempty"`
}

// HintAbout says where a secret belongs.
func (Credential) HintAbout(key string) string {
	switch key {
	case "password", "secret", "token", "key", "value", "pass", "pgpassword":
		return "a secret never stands in the configuration: " + secretHint
	}
	return ""
}

const secretHint = "put it into a file of mode 0600 and write from: file:/path, or pass it by systemd and write from: systemd:NAME"

// Level tells how much of a session is recorded.
type Level string

// The levels.
const (
	// Statements keeps what agents asked for and what was decided.
	Statements Level = "statements"
	// Full keeps what came back as well, as the agent saw it: masked.
	Full Level = "full"
)

// Record is what is kept of sessions.
type Record struct {
	// Level is statements or full.
	Level Level `yaml:"level"`
	// MaxBytesPerOperation bounds what one operation adds to a recording; the
	// rest is counted.
	MaxBytesPerOperation Size `yaml:"max_bytes_per_operation"`
	// MaxBytesPerSession bounds one recording.
	MaxBytesPerSession Size `yaml:"max_bytes_per_session"`
}

// Mode is whether policies act on this host.
type Mode string

// The modes.
const (
	Observe Mode = "observe"
	Enforce Mode = "enforce"
)

// Durability tells when an audit record counts as written.
type Durability string

// The durabilities.
const (
	// Write is when the kernel has it: it survives the daemon. How an operation
	// ended, and what was said in it, may be up to 50 ms late.
	Write Durability = "write"
	// Fsync is when the disk has it: it survives the machine. Slower.
	Fsync Durability = "fsync"
)

// Audit is the log of what was decided.
type Audit struct {
	// Durability is write or fsync.
	Durability Durability `yaml:"durability"`
	// SegmentSize is the size beyond which a new segment file is begun.
	SegmentSize Size `yaml:"segment_size"`
}

// Limits is what one daemon takes on. Beyond a limit it refuses.
type Limits struct {
	// Sessions is how many are mediated at the same time.
	Sessions uint32 `yaml:"sessions"`
	// SessionsPerTree is how many of those one tree may have.
	SessionsPerTree uint32 `yaml:"sessions_per_tree"`
	// Processes is how many enrolled ones may live at the same time. Maps that
	// are pinned keep the size they were made with.
	Processes uint32 `yaml:"processes"`
	// StatementBytes bounds the text of one operation. A longer one is an
	// unknown operation.
	StatementBytes Size `yaml:"statement_bytes"`
	// MessageBytes bounds one message with its parameters.
	MessageBytes Size `yaml:"message_bytes"`
	// Attribute is how long a connection waits until its lineage is known.
	Attribute Duration `yaml:"attribute"`
	// Detect is how long a connection waits until its first bytes are understood.
	Detect Duration `yaml:"detect"`
	// Drain is how long running sessions have when the daemon stops.
	Drain Duration `yaml:"drain"`
}

// Switch is on or off.
type Switch string

// The positions of a switch.
const (
	On  Switch = "on"
	Off Switch = "off"
)

// Protocols is how what agents speak is read.
type Protocols struct {
	// Shortcuts is on or off. On, what is known already is not found out again: the
	// facts of a statement that was read before, the rows that no mask changes, the
	// values that no detector has to look at. Off, everything takes the whole way.
	// What is decided, masked and recorded is the same, and each statement costs
	// many times as much: it is for telling whether a shortcut is at fault.
	Shortcuts Switch `yaml:"shortcuts"`
}

// Log is what the daemon says about itself.
type Log struct {
	// Level is debug, info, warn or error.
	Level string `yaml:"level"`
	// Format is json or console.
	Format string `yaml:"format"`
}

// Default returns the configuration that holds where files say nothing.
func Default() *Config {
	return &Config{
		Version: 1,
		Intercept: Intercept{
			PinDir: "/sys/fs/bpf/headgate", Port: 9640, Heartbeat: Duration(5 * time.Second),
		},
		Policies: "/etc/headgate/policies", Mode: Enforce, WatchPolicies: true,
		State:   "/var/lib/headgate",
		Control: Control{Socket: "/run/headgate/control.sock"},
		Metrics: Metrics{Listen: "127.0.0.1:9641"},
		Record:  Record{Level: Full, MaxBytesPerOperation: 64 << 10, MaxBytesPerSession: 64 << 20},
		Audit:   Audit{Durability: Write, SegmentSize: 64 << 20},
		Limits: Limits{
			Sessions: 10_000, SessionsPerTree: 1000, Processes: 65_536, StatementBytes: 1 << 20, MessageBytes: 32 << 20,
			Attribute: Duration(2 * time.Second), Detect: Duration(3 * time.Second), Drain: Duration(5 * time.Second),
		},
		Protocols: Protocols{Shortcuts: On},
		Log:       Log{Level: "info", Format: "json"},
	}
}
