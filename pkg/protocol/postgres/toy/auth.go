package toy

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/xdg-go/scram"
)

const mechanism = "SCRAM-SHA-256"

// authenticate is the server's half of SCRAM-SHA-256 (RFC 7677).
func (s *Server) authenticate(b *pgproto3.Backend, user string) error {
	if s.Password == "" || user != s.Username {
		b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: fmt.Sprintf("password authentication failed for user %q", user)})
		return errors.Join(errors.New("wrong user"), b.Flush())
	}
	conversation, err := s.conversation()
	if err != nil {
		return err
	}
	b.Send(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{mechanism}})
	if err := b.SetAuthType(pgproto3.AuthTypeSASL); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		return err
	}
	msg, err := b.Receive()
	if err != nil {
		return err
	}
	first, ok := msg.(*pgproto3.SASLInitialResponse)
	if !ok || first.AuthMechanism != mechanism {
		return errors.New("expected SCRAM-SHA-256")
	}
	challenge, err := conversation.Step(string(first.Data))
	if err != nil {
		return err
	}
	b.Send(&pgproto3.AuthenticationSASLContinue{Data: []byte(challenge)})
	if err := b.SetAuthType(pgproto3.AuthTypeSASLContinue); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		return err
	}
	return finish(b, conversation)
}

func finish(b *pgproto3.Backend, conversation *scram.ServerConversation) error {
	msg, err := b.Receive()
	if err != nil {
		return err
	}
	second, ok := msg.(*pgproto3.SASLResponse)
	if !ok {
		return errors.New("expected the client's proof")
	}
	proof, err := conversation.Step(string(second.Data))
	if err != nil || !conversation.Valid() {
		b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "password authentication failed"})
		return errors.Join(errors.New("wrong password"), b.Flush())
	}
	b.Send(&pgproto3.AuthenticationSASLFinal{Data: []byte(proof)})
	return nil
}

func (s *Server) conversation() (*scram.ServerConversation, error) {
	client, err := scram.SHA256.NewClient("", s.Password, "")
	if err != nil {
		return nil, fmt.Errorf("derive keys: %w", err)
	}
	stored, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "a toy's salt", Iters: 4096})
	if err != nil {
		return nil, fmt.Errorf("derive keys: %w", err)
	}
	server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) { return stored, nil })
	if err != nil {
		return nil, err
	}
	return server.NewConversation(), nil
}
