// Package wire frames and decodes version 3 of the PostgreSQL protocol.
//
// Everything that it reads is hostile. A [Reader] frames messages in a buffer of
// bounded size and hands out their original bytes, so that whatever is relayed
// unchanged stays byte identical; bodies that do not fit are streamed. Decoders
// look only at the messages that a mediator needs, never allocate more than a
// body is long, and refuse what PostgreSQL itself would call malformed.
//
// Sources: PostgreSQL documentation, chapters "Message Flow" and "Message
// Formats"; src/include/libpq/pqcomm.h and protocol.h.
package wire

import "errors"

var (
	// ErrMalformed is wrapped by errors for bytes that are no message.
	ErrMalformed = errors.New("malformed message")
	// ErrTooLarge is wrapped by errors for messages over their limit.
	ErrTooLarge = errors.New("message too large")
)

// Types of messages that the agent's side sends.
const (
	Bind         = 'B'
	Close        = 'C'
	CopyData     = 'd' // both directions
	CopyDone     = 'c' // both directions
	CopyFail     = 'f'
	Describe     = 'D'
	Execute      = 'E'
	Flush        = 'H'
	FunctionCall = 'F'
	Parse        = 'P'
	Password     = 'p'
	Query        = 'Q'
	Sync         = 'S'
	Terminate    = 'X'
)

// Types of messages that the target's side sends.
const (
	Authentication           = 'R'
	BackendKeyData           = 'K'
	BindComplete             = '2'
	CloseComplete            = '3'
	CommandComplete          = 'C'
	CopyBothResponse         = 'W'
	CopyInResponse           = 'G'
	CopyOutResponse          = 'H'
	DataRow                  = 'D'
	EmptyQueryResponse       = 'I'
	ErrorResponse            = 'E'
	FunctionCallResponse     = 'V'
	NegotiateProtocolVersion = 'v'
	NoData                   = 'n'
	NoticeResponse           = 'N'
	NotificationResponse     = 'A'
	ParameterDescription     = 't'
	ParameterStatus          = 'S'
	ParseComplete            = '1'
	PortalSuspended          = 's'
	ReadyForQuery            = 'Z'
	RowDescription           = 'T'
)

// AuthenticationOk and the other codes are the first four bytes of an
// Authentication message.
const (
	AuthenticationOk        = 0
	AuthenticationCleartext = 3
	AuthenticationMD5       = 5
	AuthenticationGSS       = 7
	AuthenticationGSSCont   = 8
	AuthenticationSSPI      = 9
	AuthenticationSASL      = 10
	AuthenticationSASLCont  = 11
	AuthenticationSASLFinal = 12
)
