package postgres_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/protocol/postgres/toy"
)

// hostileCatalog is a server that lets everybody in and answers the question for
// its catalog with what it likes.
func hostileCatalog(tb testing.TB, answer func(b *pgproto3.Backend) error) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				b := pgproto3.NewBackend(conn, conn)
				if _, err := b.ReceiveStartupMessage(); err != nil {
					return
				}
				b.Send(&pgproto3.AuthenticationOk{})
				b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
				if b.Flush() != nil {
					return
				}
				if m, err := b.Receive(); err == nil {
					if _, ok := m.(*pgproto3.Query); ok {
						_ = answer(b) // the other side has enough at some time
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

func TestAHostileCatalogEndsTheSessionAndNothingElse(t *testing.T) {
	cell := func(s string) []byte { return []byte(s) }
	endless := func(next func(i int) pgproto3.BackendMessage) func(b *pgproto3.Backend) error {
		return func(b *pgproto3.Backend) error {
			for i := 0; ; i++ {
				b.Send(next(i))
				if i%100 == 0 {
					if err := b.Flush(); err != nil {
						return err
					}
				}
			}
		}
	}
	ready := &pgproto3.ReadyForQuery{TxStatus: 'I'}
	for name, answer := range map[string]func(b *pgproto3.Backend) error{
		"rows without an end": endless(func(i int) pgproto3.BackendMessage {
			return &pgproto3.DataRow{Values: [][]byte{cell("w"), fmt.Append(nil, 20000+i), nil, nil, nil, nil, nil}}
		}),
		"one row as large as it gets": endless(func(int) pgproto3.BackendMessage {
			return &pgproto3.DataRow{Values: [][]byte{cell("c"), cell("20000"), cell("1"), cell("s"), cell("t"), make([]byte, 60<<10), cell("r")}}
		}),
		"a message over the limit": endless(func(int) pgproto3.BackendMessage {
			return &pgproto3.DataRow{Values: [][]byte{make([]byte, 1<<20)}}
		}),
		"something else":  endless(func(int) pgproto3.BackendMessage { return &pgproto3.CopyOutResponse{} }),
		"nothing":         func(b *pgproto3.Backend) error { b.Send(ready); return b.Flush() },
		"an error":        func(b *pgproto3.Backend) error { b.Send(&pgproto3.ErrorResponse{Code: "53300"}); return b.Flush() },
		"the end":         func(*pgproto3.Backend) error { return nil },
		"malformed cells": endless(func(int) pgproto3.BackendMessage { return &pgproto3.DataRow{Values: [][]byte{cell("c")}} }),
	} {
		t.Run(name, func(t *testing.T) {
			target := hostileCatalog(t, answer)
			g := sharing(t, func(g *gate) { g.target = target })
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := pgx.Connect(ctx, dsn(g.addr, "agent", "agent-password"))
			if err == nil || !strings.Contains(err.Error(), "it can't be found out what has to be masked here") {
				t.Errorf("a session started with %v", err)
			}
		})
	}
}

func TestTheDemonstrationsServerShowsItsCatalog(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &toy.Server{Username: "agent", Password: "agent-password"}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l) }()
	g := sharing(t, func(g *gate) { g.target = l.Addr().String() })
	client := toy.Client{Address: g.addr, Username: "agent", Dial: func(ctx context.Context, address string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}}
	err = client.Run(testContext(t), []string{"select name, ssn from customers"}, func(text string, rows [][]string, err error) {
		if err != nil || len(rows) != len(toy.Rows()) || rows[0][0] != "Ada Lovelace" || rows[0][1] != hiddenValue {
			t.Errorf("%s: %v, %v", text, rows, err)
		}
	})
	if err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
