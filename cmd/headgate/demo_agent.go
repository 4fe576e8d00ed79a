package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/headgate/headgate/pkg/upstream"
)

// demoAgentCommand is the client of the demonstration: an ordinary PostgreSQL
// client that was told an address and nothing else.
func demoAgentCommand(e env) *cobra.Command {
	return &cobra.Command{
		Use:    "demo-agent PART PORT",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 20*time.Second)
			defer cancel()
			p := printer{w: e.stdout}
			switch args[0] {
			case "read":
				demoStatements(ctx, e, &p, args[1], "SELECT * FROM customers")
			case "drop":
				demoStatements(ctx, e, &p, args[1], "DROP TABLE customers")
			case "hide":
				demoStatements(ctx, e, &p, args[1], "DROP/**/TABLE customers", "-- just looking\nDROP TABLE customers", "SELECT 1; DROP TABLE customers")
			case "metadata":
				_, err := upstream.Dialer{}.Dial(ctx, netip.MustParseAddrPort("169.254.169.254:80"))
				p.printf("connect 169.254.169.254:80: %v\n", err)
			default:
				return usageError{fmt.Errorf("unknown part %q", args[0])}
			}
			return p.err
		},
	}
}

func demoStatements(ctx context.Context, e env, p *printer, port string, statements ...string) {
	cfg, err := pgconn.ParseConfig("host=127.0.0.1 dbname=shop sslmode=disable port=" + port)
	if err != nil {
		p.printf("%v\n", err)
		return
	}
	cfg.User, cfg.Password = e.getenv("PGUSER"), e.getenv("PGPASSWORD")
	if cfg.User == "" {
		cfg.User = "agent"
	}
	cfg.DialFunc = func(ctx context.Context, _, addr string) (net.Conn, error) {
		target, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, err
		}
		return upstream.Dialer{}.Dial(ctx, target)
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		p.printf("%v\n", err)
		return
	}
	for _, sql := range statements {
		p.printf("=> %s\n", strings.ReplaceAll(sql, "\n", " "))
		results, err := conn.Exec(ctx, sql).ReadAll()
		printResults(p, results)
		printRefusal(p, err)
	}
	if err := conn.Close(ctx); err != nil {
		p.printf("%v\n", err)
	}
}

func printResults(p *printer, results []*pgconn.Result) {
	for _, r := range results {
		for _, row := range r.Rows {
			cells := make([]string, len(row))
			for i, cell := range row {
				cells[i] = fmt.Sprintf("%-20s", cell)
			}
			p.printf("%s\n", strings.TrimRight(strings.Join(cells, " "), " "))
		}
	}
}

func printRefusal(p *printer, err error) {
	var refusal *pgconn.PgError
	switch {
	case err == nil:
	case errors.As(err, &refusal):
		p.printf("ERROR:  %s: %s\nDETAIL:  %s\nHINT:  %s\n", refusal.Code, refusal.Message, refusal.Detail, refusal.Hint)
	default:
		p.printf("%v\n", err)
	}
}
