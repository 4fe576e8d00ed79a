// Package toy is a fake PostgreSQL server for the demonstration: one table, one
// role, a password, and as much of the protocol as the demonstration shows. It
// is a fake and named as one; tests of the protocol use a real server.
package toy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Table and the columns of the one table that there is.
const (
	Table = "customers"
	// TableOID is the table's object id in row descriptions and the catalog.
	TableOID = 16500
)

// Columns are the names of the table's columns, all of type text.
func Columns() []string { return []string{"name", "email", "card", "ssn"} }

// Rows are what the table holds at first.
func Rows() [][]string {
	return [][]string{
		{"Ada Lovelace", "ada@example.com", "4111 1111 1111 1111", "123-45-6789"},
		{"Grace Hopper", "grace@example.org", "5500 0055 5555 5559", "219-09-9998"},
		{"Alan Turing", "alan@example.net", "3782 822463 10005", "078-05-1121"},
	}
}

// Server is the fake. The zero Server accepts no password.
type Server struct {
	Username string
	Password string

	mu      sync.Mutex
	dropped bool
	deleted bool
}

// Dropped reports whether somebody succeeded in dropping the table.
func (s *Server) Dropped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Serve answers connections on l until ctx ends. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() {
		// A listener that was closed before is closed.
		_ = l.Close()
	})
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		conns.Go(func() {
			end := context.AfterFunc(ctx, func() {
				// Unblocks the reader; the connection is closed again below.
				_ = c.Close()
			})
			defer end()
			// What a demonstration's agent does wrong is answered to it; what is
			// left is the end of the connection.
			_ = s.serve(c)
			_ = c.Close()
		})
	}
}

func (s *Server) serve(c net.Conn) error {
	b := pgproto3.NewBackend(c, c)
	b.SetMaxBodyLen(1 << 20)
	if err := s.start(b, c); err != nil {
		return err
	}
	var text string
	for {
		msg, err := b.Receive()
		if err != nil {
			return err
		}
		switch m := msg.(type) {
		case *pgproto3.Query:
			for _, answer := range s.answer(m.String) {
				b.Send(answer)
			}
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Terminate:
			return nil
		default:
			s.extended(b, msg, &text)
		}
		if err := b.Flush(); err != nil {
			return err
		}
	}
}

// extended answers the extended protocol as far as one statement at a time
// needs it; text is what was parsed last.
func (s *Server) extended(b *pgproto3.Backend, msg pgproto3.FrontendMessage, text *string) {
	switch m := msg.(type) {
	case *pgproto3.Parse:
		*text = m.Query
		b.Send(&pgproto3.ParseComplete{})
	case *pgproto3.Bind:
		b.Send(&pgproto3.BindComplete{})
	case *pgproto3.Execute:
		for _, answer := range s.answer(*text) {
			if _, described := answer.(*pgproto3.RowDescription); !described {
				b.Send(answer)
			}
		}
	case *pgproto3.Close:
		b.Send(&pgproto3.CloseComplete{})
	case *pgproto3.Sync:
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	case *pgproto3.Flush:
	default:
		b.Send(failure("0A000", fmt.Sprintf("the toy does not speak %T", msg)))
	}
}

func (s *Server) start(b *pgproto3.Backend, c net.Conn) error {
	for {
		msg, err := b.ReceiveStartupMessage()
		if err != nil {
			return err
		}
		switch m := msg.(type) {
		case *pgproto3.SSLRequest, *pgproto3.GSSEncRequest:
			if _, err := c.Write([]byte{'N'}); err != nil {
				return err
			}
		case *pgproto3.StartupMessage:
			if err := s.authenticate(b, m.Parameters["user"]); err != nil {
				return err
			}
			b.Send(&pgproto3.AuthenticationOk{})
			for name, value := range map[string]string{
				"server_version": "15.0 (toy)", "client_encoding": "UTF8", "server_encoding": "UTF8",
				"standard_conforming_strings": "on", "DateStyle": "ISO, MDY", "TimeZone": "UTC", "integer_datetimes": "on",
			} {
				b.Send(&pgproto3.ParameterStatus{Name: name, Value: value})
			}
			b.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{0, 0, 0, 1}})
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			return b.Flush()
		default:
			return errors.New("unexpected start-up message")
		}
	}
}

// answer does what the text says, as far as the toy understands it.
func (s *Server) answer(text string) []pgproto3.BackendMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	text = strings.TrimSuffix(strings.TrimSpace(text), ";")
	words := strings.Fields(strings.ToLower(text))
	one := func(m pgproto3.BackendMessage) []pgproto3.BackendMessage { return []pgproto3.BackendMessage{m} }
	switch {
	case len(words) == 0:
		return one(&pgproto3.EmptyQueryResponse{})
	case strings.Contains(text, "pg_catalog."):
		return catalog()
	case words[0] != "select" && words[0] != "drop" && words[0] != "delete":
		return one(failure("42601", fmt.Sprintf("syntax error at or near %q", words[0])))
	case !strings.Contains(text, Table) || s.dropped:
		return one(failure("42P01", fmt.Sprintf("relation %q does not exist", words[len(words)-1])))
	case words[0] == "select":
		return s.table(words)
	case words[0] == "drop":
		s.dropped = true
		return one(&pgproto3.CommandComplete{CommandTag: []byte("DROP TABLE")})
	default:
		s.deleted = true
		return one(&pgproto3.CommandComplete{CommandTag: fmt.Appendf(nil, "DELETE %d", len(Rows()))})
	}
}

// table returns the rows with the columns that the select list names.
func (s *Server) table(words []string) []pgproto3.BackendMessage {
	var picked []int
	for i, name := range Columns() {
		list := strings.Join(words[1:], " ")
		if from := strings.Index(list, " from "); from >= 0 && (list[:from] == "*" || strings.Contains(list[:from], name)) {
			picked = append(picked, i)
		}
	}
	description := &pgproto3.RowDescription{}
	for _, i := range picked {
		description.Fields = append(description.Fields, pgproto3.FieldDescription{
			Name: []byte(Columns()[i]), TableOID: TableOID, TableAttributeNumber: uint16(i + 1),
			DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1,
		})
	}
	answer := []pgproto3.BackendMessage{description}
	rows := Rows()
	if s.deleted {
		rows = nil
	}
	for _, row := range rows {
		data := &pgproto3.DataRow{}
		for _, i := range picked {
			data.Values = append(data.Values, []byte(row[i]))
		}
		answer = append(answer, data)
	}
	return append(answer, &pgproto3.CommandComplete{CommandTag: fmt.Appendf(nil, "SELECT %d", len(rows))})
}

func failure(code, message string) *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: code, Message: message}
}
