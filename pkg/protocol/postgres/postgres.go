package postgres

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/login"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// Name is the protocol's name in policies, metrics and records.
const Name = "postgres"

// Options configures the protocol. The zero Options are the defaults.
type Options struct {
	// MaxStatement bounds the SQL of one message, in bytes; 1 MiB by default.
	// A longer one is an unknown operation.
	MaxStatement int
	// MaxBind bounds one Bind with its parameters, in bytes; 32 MiB by default.
	MaxBind int
	// MaxRow bounds one row while masks are active, or while a credential was
	// injected and one of its columns is computed, in bytes; 64 MiB by default.
	// Other rows are streamed and have no bound but the protocol's.
	MaxRow int
	// MaxNames bounds the prepared statements and portals of one session that
	// are remembered; 8192 by default.
	MaxNames int
	// MaxMemory bounds, in bytes, what the messages that are larger than 1 MiB hold
	// in all sessions together; 256 MiB by default.
	MaxMemory int
	// StartupTimeout bounds the time from the start of a session to its first
	// ReadyForQuery, whoever is waited for; 60 s by default, which is
	// PostgreSQL's own authentication_timeout.
	StartupTimeout time.Duration
	// Token returns 32 hexadecimal digits that nobody can guess. It is there so
	// that tests can know them.
	Token func() string
	// Key fills the key by which a session can be cancelled. It is there so that
	// tests can know it.
	Key func(key []byte)
	// Shortcuts are taken unless somebody says otherwise: see shortcuts.go. Where they
	// are not, MaxRow bounds every row.
	Shortcuts protocol.Shortcuts
}

// Postgres is the protocol. One value serves all sessions; it holds the keys by
// which one connection may cancel what runs on another.
type Postgres struct {
	options Options
	parser  *statement.Parser
	budget  *budget
	known   *databases
	drains  chan struct{} // one for each connection that is looked after
	gate    *login.Gate
	traces  credential.Shared

	requests requests
	cancels  cancels
}

// New returns the protocol. It panics if the parser's memory can't be set up.
func New(options Options) *Postgres {
	setDefault(&options.MaxStatement, 1<<20)
	setDefault(&options.MaxBind, 32<<20)
	setDefault(&options.MaxRow, 64<<20)
	setDefault(&options.MaxNames, 8192)
	setDefault(&options.MaxMemory, 256<<20)
	setDefault(&options.StartupTimeout, 60*time.Second)
	if options.Token == nil {
		options.Token = randomToken
	}
	if options.Key == nil {
		options.Key = randomKey
	}
	return &Postgres{
		options: options,
		parser:  statement.NewParser(statement.Options{Shortcuts: options.Shortcuts}),
		budget:  newBudget(options.MaxMemory),
		cancels: cancels{live: make(map[uint32][]*cancelable), limit: maxCancelable, key: options.Key},
		known:   newDatabases(),
		drains:  make(chan struct{}, maxDrains),
		gate:    login.NewGate(),
	}
}

func setDefault[T int | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

func randomToken() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(fmt.Sprintf("read random bytes: %v", err)) // documented never to happen
	}
	return hex.EncodeToString(b[:])
}

// Warm starts the parser, so that the first agent does not wait a second for it.
func (p *Postgres) Warm() error { return p.parser.Warm() }

// Metered says that all rows and data are charged; see [protocol.Meter].
func (*Postgres) Metered() {}

// Name returns [Name].
func (*Postgres) Name() string { return Name }
