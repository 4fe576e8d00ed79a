package postgres_test

import "github.com/jackc/pgx/v5/pgproto3"

func copyDataOf(s string) *pgproto3.CopyData { return &pgproto3.CopyData{Data: []byte(s)} }
func copyDoneOf() *pgproto3.CopyDone         { return &pgproto3.CopyDone{} }
