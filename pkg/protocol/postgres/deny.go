package postgres

import (
	"fmt"
	"strings"

	"github.com/jackc/pgproto3/v2"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// SQLSTATEs that originate here; see the appendix "PostgreSQL Error Codes".
const (
	codeConnectionFailure = "08006"
	codeProtocolViolation = "08P01"
	codeUnsupported       = "0A000"
	codeIdentity          = "28000"
	codePassword          = "28P01"
	codePrivilege         = "42501"
	codeLimit             = "54000"
	codeCanceled          = "57014"
	codeAdminShutdown     = "57P01"
)

// refusal is an error of ours in PostgreSQL's terms.
type refusal struct{ code, message, detail, hint string }

// refusalOf translates a denial. Only words that are meant for the agent are in
// it.
func refusalOf(d *protocol.Denial) refusal {
	r := refusal{code: codePrivilege, message: d.Summary(), hint: d.Hint()}
	if d.Reason == protocol.ReasonLimit {
		r.code = codeLimit
	}
	r.detail = "rule " + d.Rule + ", reason " + d.Reason
	if d.Detail != "" && d.Reason != policy.ReasonUnknownOperation {
		r.detail += ": " + d.Detail
	}
	r.detail += ", id " + d.ID
	return r
}

// appendFatal appends an ErrorResponse that ends a session.
func appendFatal(dst []byte, r refusal) []byte { return appendError(dst, "FATAL", r) }

func appendError(dst []byte, severity string, r refusal) []byte {
	e := pgproto3.ErrorResponse{
		Severity: severity, SeverityUnlocalized: severity, Code: r.code,
		Message: clean(r.message), Detail: clean(r.detail), Hint: clean(r.hint),
	}
	return encode(dst, &e)
}

// clean makes a text fit into a field: no NUL, valid UTF-8.
func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
}

// poisonName is what poison is recognised by. It is an identifier, so wherever
// it stands the server quotes it in its error.
func poisonName(token string) string { return "headgate_" + token }

// appendPoisonQuery appends a Query that no server can parse.
func appendPoisonQuery(dst []byte, token, id string) []byte {
	return encode(dst, &pgproto3.Query{String: poisonText(token, id)})
}

// appendPoisonParse appends a Parse of the same text under the agent's name for
// it: the server forgets an unnamed statement as it would have done.
func appendPoisonParse(dst []byte, name, token, id string) []byte {
	return encode(dst, &pgproto3.Parse{Name: name, Query: poisonText(token, id)})
}

// appendPoisonExecute appends an Execute of a portal that does not exist.
func appendPoisonExecute(dst []byte, token string) []byte {
	return encode(dst, &pgproto3.Execute{Portal: poisonName(token)})
}

// appendPoisonBind appends a Bind of a statement that does not exist.
func appendPoisonBind(dst []byte, portal, token string) []byte {
	return encode(dst, &pgproto3.Bind{DestinationPortal: portal, PreparedStatement: poisonName(token)})
}

func poisonText(token, id string) string {
	harmless := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.', r == ':':
			return r
		default:
			return -1
		}
	}, id)
	return poisonName(token) + " /* refused by policy, id " + harmless + " */"
}

// poisoned reports whether an error is the one that r's poison caused.
func poisoned(r *request, fields []wire.Field) bool {
	return r != nil && r.denial != nil && strings.Contains(string(wire.Get(fields, 'M')), poisonName(r.token))
}

// encode appends a message of ours. It panics if that is over a gigabyte, which
// none can be: what the agent contributes to it is bounded.
func encode(dst []byte, m interface {
	Encode(dst []byte) ([]byte, error)
}) []byte {
	out, err := m.Encode(dst)
	if err != nil {
		panic(fmt.Sprintf("encode message: %v", err))
	}
	return out
}
