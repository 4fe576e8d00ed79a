// Command pgclient is the static Go client of the end-to-end tests: it knows
// nothing of a proxy and takes libpq's variables from its environment.
//
//	pgclient query SQL          extended protocol, binary results; prints one row per line
//	pgclient pipeline SQL SQL…  all in one pipeline without an explicit transaction; prints the first error
//	pgclient simple SQL         simple protocol, any number of statements; prints the tags
//	pgclient padded N SQL       the same behind a comment of N bytes
//	pgclient drain SQL TEXT     reads all rows and keeps none; prints how many there were, their bytes, and how many hold TEXT
//	pgclient hold SQL           runs SQL, prints "ready", then waits for its input to end
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		var refusal *pgconn.PgError
		if errors.As(err, &refusal) {
			fmt.Printf("%s %s\nDETAIL: %s\nHINT: %s\n", refusal.Code, refusal.Message, refusal.Detail, refusal.Hint)
		} else {
			fmt.Println(err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errors.New("usage: pgclient query|simple|padded|pipeline|hold SQL...")
	}
	conn, err := pgx.Connect(ctx, "")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	switch args[0] {
	case "query":
		return query(ctx, conn, args[1])
	case "simple":
		return simple(ctx, conn, args[1])
	case "padded":
		n, err := strconv.Atoi(args[1])
		if err != nil || len(args) < 3 {
			return errors.New("usage: pgclient padded N SQL")
		}
		return simple(ctx, conn, "/*"+strings.Repeat("x", n)+"*/ "+args[2])
	case "drain":
		if len(args) < 3 {
			return errors.New("usage: pgclient drain SQL TEXT")
		}
		return drain(ctx, conn, args[1], []byte(args[2]))
	case "pipeline":
		return pipeline(ctx, conn, args[1:])
	case "hold":
		if err := query(ctx, conn, args[1]); err != nil {
			return err
		}
		fmt.Println("ready")
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	default:
		return fmt.Errorf("unknown mode %q", args[0])
	}
}

func query(ctx context.Context, conn *pgx.Conn, sql string) error {
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return err
		}
		fmt.Println(values...)
	}
	return rows.Err()
}

func drain(ctx context.Context, conn *pgx.Conn, sql string, text []byte) error {
	results := conn.PgConn().Exec(ctx, sql)
	rows, size, found := 0, 0, 0
	for results.NextResult() {
		for reader := results.ResultReader(); reader.NextRow(); rows++ {
			for _, value := range reader.Values() {
				size += len(value)
				if bytes.Contains(value, text) {
					found++
				}
			}
		}
	}
	if err := results.Close(); err != nil {
		return err
	}
	fmt.Println(rows, "rows", size, "bytes", found, "with the text")
	return nil
}

func simple(ctx context.Context, conn *pgx.Conn, sql string) error {
	results, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	for _, r := range results {
		fmt.Println(r.CommandTag)
	}
	return err
}

func pipeline(ctx context.Context, conn *pgx.Conn, statements []string) error {
	p := conn.PgConn().StartPipeline(ctx)
	for _, sql := range statements {
		p.SendQueryParams(sql, nil, nil, nil, nil)
	}
	if err := p.Sync(); err != nil {
		return err
	}
	var first error
	for {
		result, err := p.GetResults()
		if err != nil && first == nil {
			first = err
		}
		if reader, ok := result.(*pgconn.ResultReader); ok {
			if read := reader.Read(); read.Err != nil && first == nil {
				first = read.Err
			}
		}
		if _, done := result.(*pgconn.PipelineSync); done {
			break
		}
		if result == nil && err == nil {
			break
		}
	}
	return errors.Join(first, p.Close())
}
