package toy

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

// Client is an ordinary PostgreSQL client for the demonstration's agent.
type Client struct {
	// Address is "host:port". Username and Password may be empty.
	Address, Username, Password string
	// Dial opens the connection.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Refusal is an error of the server, with the fields that a person reads.
type Refusal struct{ Code, Message, Detail, Hint string }

// Error returns code and message.
func (r *Refusal) Error() string { return r.Code + ": " + r.Message }

// Run connects, runs each text by itself in the simple protocol, tells answer of
// each one's rows and error, and closes. A server's error is a [*Refusal].
func (c Client) Run(ctx context.Context, texts []string, answer func(text string, rows [][]string, err error)) error {
	host, port, err := net.SplitHostPort(c.Address)
	if err != nil {
		return fmt.Errorf("read address: %w", err)
	}
	cfg, err := pgconn.ParseConfig(fmt.Sprintf("host=%s port=%s dbname=shop sslmode=disable", host, port))
	if err != nil {
		return fmt.Errorf("configure client: %w", err)
	}
	cfg.User, cfg.Password = c.Username, c.Password
	cfg.DialFunc = func(ctx context.Context, _, address string) (net.Conn, error) { return c.Dial(ctx, address) }
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	for _, text := range texts {
		results, err := conn.Exec(ctx, text).ReadAll()
		var rows [][]string
		for _, r := range results {
			for _, row := range r.Rows {
				cells := make([]string, len(row))
				for i, cell := range row {
					cells[i] = string(cell)
				}
				rows = append(rows, cells)
			}
		}
		answer(text, rows, refusalOf(err))
	}
	return conn.Close(ctx)
}

func refusalOf(err error) error {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return &Refusal{e.Code, e.Message, e.Detail, e.Hint}
	}
	return err
}
