package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/protocol/postgres/toy"
	"github.com/headgate/headgate/pkg/upstream"
)

// demoAgentCommand is the client of the demonstration: an ordinary database
// client that was told an address and nothing else.
func demoAgentCommand(e env) *cobra.Command {
	return &cobra.Command{
		Use:    "demo-agent PART PORT",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 20*time.Second)
			defer cancel()
			p := &printer{w: e.stdout}
			if args[0] == "metadata" {
				_, err := upstream.Dialer{}.Dial(ctx, upstream.Target{Addr: netip.MustParseAddrPort("169.254.169.254:80")})
				p.printf("connect 169.254.169.254:80: %v\n", err)
				return p.err
			}
			texts, ok := demoTexts()[args[0]]
			if !ok {
				return usageError{fmt.Errorf("unknown part %q", args[0])}
			}
			client := toy.Client{
				Address: net.JoinHostPort("127.0.0.1", args[1]), Dial: dialLiteral,
				Username: e.getenv("PGUSER"), Password: e.getenv("PGPASSWORD"),
			}
			if client.Username == "" {
				client.Username = "agent"
			}
			if err := client.Run(ctx, texts, p.answer); err != nil {
				p.printf("%v\n", err)
			}
			return p.err
		},
	}
}

func demoTexts() map[string][]string {
	return map[string][]string{
		"read": {"SELECT * FROM customers"},
		"drop": {"DROP TABLE customers"},
		"hide": {"DROP/**/TABLE customers", "-- just looking\nDROP TABLE customers", "SELECT 1; DROP TABLE customers"},
	}
}

func dialLiteral(ctx context.Context, address string) (net.Conn, error) {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	return upstream.Dialer{}.Dial(ctx, upstream.Target{Addr: target})
}

// answer prints what a statement gave.
func (p *printer) answer(text string, rows [][]string, err error) {
	p.printf("=> %s\n", strings.ReplaceAll(text, "\n", " "))
	for _, row := range rows {
		for i := range row {
			row[i] = fmt.Sprintf("%-20s", row[i])
		}
		p.printf("%s\n", strings.TrimRight(strings.Join(row, " "), " "))
	}
	var refusal *toy.Refusal
	switch {
	case err == nil:
	case errors.As(err, &refusal):
		p.printf("ERROR:  %s\nDETAIL:  %s\nHINT:  %s\n", refusal, refusal.Detail, refusal.Hint)
	default:
		p.printf("%v\n", err)
	}
}
