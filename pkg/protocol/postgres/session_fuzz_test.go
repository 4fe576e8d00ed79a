package postgres_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres"
	"github.com/headgate/headgate/pkg/transparent"
)

func lines(tb testing.TB, list ...string) []byte {
	tb.Helper()
	var out []byte
	for _, line := range list {
		p, err := trace{}.Encode(line)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, p...)
	}
	return out
}

// FuzzSession lets both sides say anything after the login: the session must end
// when they have, whatever it was.
func FuzzSession(f *testing.F) {
	opening := lines(f, `Startup user "agent"`)
	welcome := lines(f, "AuthenticationOk", `BackendKeyData 7 "abcd"`, "ReadyForQuery I")
	f.Add(lines(f, `Query "select 1"`, "Terminate"),
		lines(f, `RowDescription "a:0:0:25:0"`, `DataRow "4111111111111111"`, `CommandComplete "SELECT 1"`, "ReadyForQuery I"))
	f.Add(lines(f, `Parse "a" "copy t from stdin"`, `Bind "" "a"`, `Execute "" 0`, "Sync", `CopyData "x"`, "CopyDone", "Sync"),
		lines(f, "ParseComplete", "BindComplete", "CopyInResponse", `ErrorResponse "SERROR" "C22P02" "Mx"`, "ReadyForQuery I"))
	f.Add(lines(f, `Describe S "a"`, `Close P "b"`, "Flush", "FunctionCall 7", "Sync"),
		lines(f, "NoData", "CloseComplete", `NoticeResponse "Mx"`, `ParameterStatus "client_encoding" "SJIS"`, "ReadyForQuery T"))
	f.Add(lines(f, `Query "copy t (a, b) to stdout csv"`, `Query "select 1"`),
		lines(f, "CloseComplete", "CloseComplete", "ParseComplete", `RowDescription "a:0:0:25:0" "b:0:0:25:0"`, "CloseComplete",
			"ParseComplete", "BindComplete", "CopyOutResponse 0 2", `CopyData "1,\"41111"`, `CopyData "11111111111\"\n"`, "CopyDone",
			`CommandComplete "COPY 1"`, "CloseComplete", "CloseComplete", "ReadyForQuery I"))
	f.Add(lines(f, `Query "select 1"`, "Terminate"),
		lines(f, `RowDescription "a:0:0:25:0"`, `DataRow "1"`, `DataRow "2"`, `DataRow "3"`, `DataRow "4"`, `ErrorResponse "SERROR" "C57014" "Mx"`, "ReadyForQuery I"))
	f.Add(lines(f, `Parse "a" "copy t to stdout"`, `Bind "" "a"`, `Execute "" 0`, "Sync"),
		lines(f, "ParseComplete", "BindComplete", "CopyOutResponse", `CopyData "x"`, `CopyData "x"`, `CopyData "x"`, "CopyDone", `CommandComplete "COPY 3"`, "ReadyForQuery I"))
	set := mustMask(f, mask.Rule{Name: "d", Detect: []string{"pan"}, With: "redact"})
	value := newPostgres(postgres.Options{Token: func() string { return token }})
	f.Fuzz(func(t *testing.T, up, down []byte) {
		agent, mediated := net.Pipe()
		upstream, target := net.Pipe()
		ids, dials := 0, 0
		s := &protocol.Session{
			ID: "session-1", Downstream: transparent.NewConn(mediated, transparent.Origin{Target: netip.MustParseAddrPort("192.0.2.1:5432")}),
			Process: &process.Process{}, Log: zerolog.Nop(), Resource: policy.Resource{TLS: policy.TLS{Verify: policy.TLSOff}},
			Decide: func(_ context.Context, op *policy.Operation) (protocol.Ruling, error) {
				if ids++; ids%3 == 0 {
					return protocol.Ruling{}, &protocol.Denial{ID: "op", Rule: "r", Reason: policy.ReasonRule}
				}
				spend := func(given, _ protocol.Volume) *protocol.Denial {
					if given.Rows < 2 {
						return nil
					}
					return &protocol.Denial{ID: "op", Rule: "r", Reason: protocol.ReasonLimit}
				}
				return protocol.Ruling{ID: "op", Spend: spend}, nil
			},
			Deny: func(protocol.Ruling, *policy.Operation, *protocol.Denial) error { return nil },
			Dial: func(context.Context) (net.Conn, error) {
				if dials++; dials == 1 {
					return upstream, nil
				}
				near, far := net.Pipe() // takes a CancelRequest
				go func() {
					_, _ = io.CopyN(io.Discard, far, 16)
					_ = far.Close()
				}()
				return near, nil
			},
			Credential: func(context.Context) (credential.Credential, bool, error) {
				return credential.Credential{}, false, nil
			},
			Mask:   func() *mask.Set { return set },
			Record: func(protocol.Frame) error { return nil },
		}
		done := make(chan error, 1)
		go func() { // the gateway's part: what Serve leaves is closed
			err := value.Serve(t.Context(), s)
			_, _ = mediated.Close(), upstream.Close()
			done <- err
		}()
		say := func(conn net.Conn, first, then []byte) {
			go func() { _, _ = io.Copy(io.Discard, conn) }() // what is read does not matter
			_, err := conn.Write(append(append([]byte(nil), first...), then...))
			if err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Error(err)
			}
		}
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			say(target, welcome, down)
			_ = target.Close()
		}()
		say(agent, opening, up)
		_ = agent.Close()
		select {
		case err := <-done:
			var p *protocol.Panic
			if errors.As(err, &p) {
				t.Errorf("%v\n%s", p, p.Stack)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("session did not end")
		}
		<-finished
	})
}
