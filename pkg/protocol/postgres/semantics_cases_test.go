package postgres_test

import (
	"slices"

	"github.com/jackc/pgx/v5/pgproto3"
)

// What fails when the server parses it, in front of everything that is in the
// same Query, and what is denied instead. Had the denial no effect, the table
// would be empty.
const (
	failsToParse  = planned + " sem"
	deniedToParse = "truncate sem"
	// This one fails when it runs; the policy denies the same text, and had the
	// denial no effect the server's own error would show.
	failsToRun = "delete from sem where " + planned + "()"
)

// conversations returns them all. function is the OID of what raises the planned
// error.
func conversations(function uint32) []conversation {
	return slices.Concat(simpleConversations(), functionConversations(function), extendedConversations(), lateConversations(), copyConversations(), cursorConversations())
}

// atParse is a conversation in which a statement fails as soon as it is read.
func atParse(name, want string, turns func(bad string) []turn) conversation {
	return conversation{name: name, fails: failsToParse, denied: deniedToParse, want: want, turns: turns}
}

// atRun is one in which the statement is denied when it runs, as the policy has
// changed since it was prepared.
func atRun(name, want string, turns func(bad string) []turn) conversation {
	return conversation{name: name, fails: failsToRun, denied: failsToRun, late: true, want: want, turns: turns}
}

func simpleConversations() []conversation {
	return []conversation{
		atParse("query alone", "1", func(bad string) []turn {
			return []turn{ask(insert(1)), ask(bad), ask("table sem")}
		}),
		atParse("second of one query", "", func(bad string) []turn {
			return []turn{ask(insert(1) + "; " + bad + "; " + insert(2)), ask("table sem")}
		}),
		atParse("begin and commit in one query with it", "1", func(bad string) []turn {
			return []turn{ask(insert(1)), ask("begin; " + insert(2) + "; commit; " + bad), ask("table sem")}
		}),
		atParse("transaction, commit", "", func(bad string) []turn {
			return []turn{ask("begin"), ask(insert(1)), ask(bad), ask("table sem"), ask(bad), ask("commit"), ask("table sem")}
		}),
		atParse("transaction, commit and chain", "", func(bad string) []turn {
			return []turn{ask("begin"), ask(insert(1)), ask(bad), ask("commit and chain"), ask(insert(2)), ask("rollback")}
		}),
		atParse("transaction, prepare transaction", "", func(bad string) []turn {
			return []turn{ask("begin"), ask(insert(1)), ask(bad), ask("prepare transaction 'sem'"), ask("table sem")}
		}),
		atParse("transaction, rollback", "3", func(bad string) []turn {
			return []turn{ask("begin"), ask(insert(1)), ask(bad), ask("rollback"), ask(insert(3))}
		}),
		atParse("savepoint", "1 3", func(bad string) []turn {
			return []turn{
				ask("begin"), ask(insert(1)), ask("savepoint s"), ask(insert(2)), ask(bad), ask("select 1"),
				ask("rollback to s"), ask(insert(3)), ask("commit"),
			}
		}),
		atParse("nested savepoints, one released", "1 4", func(bad string) []turn {
			return []turn{
				ask("begin; " + insert(1) + "; savepoint a; " + insert(2) + "; savepoint b; release b"), ask(bad),
				ask("release a"), ask("rollback to b"), ask("rollback to a"), ask(insert(4)), ask("commit"),
			}
		}),
		atParse("several queries in one packet", "1 3", func(bad string) []turn {
			return []turn{pipeline(4, queryOf(insert(1)), queryOf(bad), queryOf(""), queryOf(insert(3)))}
		}),
		atParse("a setting that the error takes back", "", func(bad string) []turn {
			return []turn{ask("begin; set application_name = 'sem'"), ask(bad), ask("rollback"), ask("show application_name")}
		}),
		atParse("a notification that is never sent", "", func(bad string) []turn {
			return []turn{ask("listen sem"), ask("begin; notify sem"), ask(bad), ask("commit"), ask("unlisten sem")}
		}),
	}
}

func extendedConversations() []conversation {
	return []conversation{
		atParse("parse alone", "1", func(bad string) []turn {
			return []turn{pipeline(1, run(insert(1)), syncOf), pipeline(1, run(bad), syncOf), pipeline(1, run("table sem"), syncOf)}
		}),
		atParse("pipeline", "", func(bad string) []turn {
			return []turn{pipeline(1, run(insert(1)), run(bad), run(insert(2)), syncOf), ask("table sem")}
		}),
		atParse("pipeline with several syncs", "1 4", func(bad string) []turn {
			return []turn{pipeline(3, run(insert(1)), syncOf, run(insert(2)), run(bad), run(insert(3)), syncOf, run(insert(4)), syncOf)}
		}),
		atParse("flush without sync", "", func(bad string) []turn {
			return []turn{
				{send: messagesOf(run(insert(1)), &pgproto3.Flush{}), until: "C"},
				{send: messagesOf(run(bad), &pgproto3.Flush{}), until: "E"},
				pipeline(1, run(insert(2)), &pgproto3.Flush{}, syncOf),
			}
		}),
		// A server flushes an error of the extended protocol at once, asked or not.
		atParse("neither flush nor sync", "", func(bad string) []turn {
			return []turn{{send: messagesOf(run(insert(1)), run(bad)), until: "E"}, pipeline(1, syncOf)}
		}),
		atParse("transaction in a pipeline", "", func(bad string) []turn {
			return []turn{
				pipeline(1, run("begin"), run(insert(1)), run(bad), run("commit"), syncOf),
				pipeline(1, run("select 1"), syncOf), pipeline(1, run("commit"), syncOf),
			}
		}),
		atParse("savepoint", "1 3", func(bad string) []turn {
			return []turn{
				pipeline(1, run("begin"), run(insert(1)), run("savepoint s"), run(insert(2)), run(bad), syncOf),
				pipeline(1, run("rollback to s"), run(insert(3)), run("commit"), syncOf),
			}
		}),
		atParse("describe behind a denied parse", "", func(bad string) []turn {
			describe := &pgproto3.Describe{ObjectType: 'S', Name: "d"}
			return []turn{
				pipeline(1, &pgproto3.Parse{Name: "d", Query: bad}, describe, syncOf),
				pipeline(1, describe, syncOf),
				pipeline(1, &pgproto3.Bind{PreparedStatement: "d"}, &pgproto3.Execute{}, syncOf),
			}
		}),
		atParse("close behind a denied parse", "", func(bad string) []turn {
			c := &pgproto3.Close{ObjectType: 'S', Name: "d"}
			return []turn{pipeline(1, &pgproto3.Parse{Name: "d", Query: bad}, c, syncOf), pipeline(1, c, syncOf)}
		}),
		atParse("a name that is taken", "1 2", func(bad string) []turn {
			execute := messagesOf(&pgproto3.Bind{PreparedStatement: "n", Parameters: [][]byte{nil}}, &pgproto3.Execute{})
			again := messagesOf(&pgproto3.Bind{PreparedStatement: "n"}, &pgproto3.Execute{})
			return []turn{
				pipeline(1, &pgproto3.Parse{Name: "n", Query: insert(1)}, again, syncOf),
				pipeline(1, &pgproto3.Parse{Name: "n", Query: bad}, syncOf),
				pipeline(1, execute, syncOf), pipeline(1, again, syncOf), pipeline(1, run(insert(2)), syncOf),
			}
		}),
		atParse("the unnamed statement is gone", "", func(bad string) []turn {
			bind := messagesOf(&pgproto3.Bind{}, &pgproto3.Execute{})
			return []turn{
				pipeline(1, &pgproto3.Parse{Query: "select 1"}, syncOf), pipeline(1, &pgproto3.Parse{Query: bad}, syncOf),
				pipeline(1, bind, syncOf),
				pipeline(1, &pgproto3.Parse{Query: "select 1"}, syncOf), ask(bad), pipeline(1, bind, syncOf),
			}
		}),
		atParse("the unnamed statement stays behind a named one", "", func(bad string) []turn {
			return []turn{
				pipeline(1, &pgproto3.Parse{Query: "select 1"}, syncOf), pipeline(1, &pgproto3.Parse{Name: "d", Query: bad}, syncOf),
				pipeline(1, &pgproto3.Bind{}, &pgproto3.Execute{}, syncOf),
			}
		}),
		atParse("a query in what is skipped", "3", func(bad string) []turn {
			return []turn{pipeline(2, run(bad), queryOf(insert(1)), run(insert(2)), syncOf, queryOf(insert(3)))}
		}),
		atParse("an earlier error is the server's", "", func(bad string) []turn {
			return []turn{pipeline(1, run(insert(1)), run("select 1/0"), run(bad), syncOf), ask(bad)}
		}),
	}
}

func lateConversations() []conversation {
	prepare := func(bad string) turn { return pipeline(1, &pgproto3.Parse{Name: "gone", Query: bad}, syncOf) }
	execute := messagesOf(&pgproto3.Bind{PreparedStatement: "gone"}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{})
	now := func(t turn) turn { t.denies = true; return t }
	return []conversation{
		atRun("execute, named statement", "1 2", func(bad string) []turn {
			return []turn{
				ask(insert(1)), prepare(bad), now(pipeline(1, execute, syncOf)),
				pipeline(1, run(insert(2)), syncOf), pipeline(1, execute, syncOf),
			}
		}),
		atRun("execute in a pipeline", "0 4", func(bad string) []turn {
			return []turn{
				ask(insert(0)), prepare(bad),
				now(pipeline(2, run(insert(1)), execute, run(insert(2)), syncOf, run(insert(4)), syncOf)),
			}
		}),
		atRun("execute, flush", "1", func(bad string) []turn {
			return []turn{
				ask(insert(1)), prepare(bad),
				now(turn{send: messagesOf(execute, &pgproto3.Flush{}), until: "E"}), pipeline(1, syncOf),
			}
		}),
		atRun("execute in a transaction with a savepoint", "1 3", func(bad string) []turn {
			return []turn{
				ask("begin; " + insert(1) + "; savepoint s; " + insert(2)), prepare(bad), now(pipeline(1, execute, syncOf)),
				pipeline(1, execute, syncOf), ask("rollback to s"), pipeline(1, run(insert(3)), syncOf), ask("commit"),
			}
		}),
		atRun("execute in a transaction, commit", "", func(bad string) []turn {
			return []turn{ask("begin; " + insert(1)), prepare(bad), now(pipeline(1, execute, syncOf)), pipeline(1, run("commit"), syncOf)}
		}),
		{
			name: "execute of SQL", fails: "execute q", denied: "execute q", late: true, want: "1",
			turns: func(bad string) []turn {
				return []turn{
					ask(insert(1)), ask("prepare q as " + failsToRun),
					pipeline(1, &pgproto3.Parse{Name: "e", Query: bad}, syncOf), now(ask(bad)),
					pipeline(1, &pgproto3.Bind{PreparedStatement: "e"}, &pgproto3.Execute{}, syncOf), ask("deallocate q"),
				}
			},
		},
	}
}

func functionConversations(oid uint32) []conversation {
	call := turn{send: frontend{&pgproto3.FunctionCall{Function: oid, ResultFormatCode: 1}}, until: "Z"}
	return []conversation{{
		name: "function call", fails: "nothing", denied: "nothing", want: "1",
		turns: func(string) []turn { return []turn{ask(insert(1)), call, ask("begin"), call, ask("commit")} },
	}}
}

func copyConversations() []conversation {
	const fromStdin, toStdout = "copy sem from stdin", "copy sem to stdout"
	const missing = "copy " + planned + " from stdin"
	data := messagesOf(&pgproto3.CopyData{Data: []byte("7\tcopied\n")}, &pgproto3.CopyData{Data: []byte("8\tcopied\n")})
	done, failed := &pgproto3.CopyDone{}, &pgproto3.CopyFail{Message: "no"}
	in := func(name, want string, turns func(bad string) []turn) conversation {
		return conversation{name: "copy in, " + name, fails: missing, denied: fromStdin, want: want, turns: turns}
	}
	late := func(name, want string, turns func(bad string) []turn) conversation {
		c := in(name, want, turns)
		c.late = true
		return c
	}
	out := func(name, want string, turns func(bad string) []turn) conversation {
		return conversation{name: "copy out, " + name, fails: failsToParse, denied: toStdout, want: want, turns: turns}
	}
	prepare := func(bad string) turn { return pipeline(1, &pgproto3.Parse{Name: "c", Query: bad}, syncOf) }
	execute := messagesOf(&pgproto3.Bind{PreparedStatement: "c"}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{})
	now := func(t turn) turn { t.denies = true; return t }
	parsed := in("extended, the data is on its way", "1 2", func(bad string) []turn {
		return []turn{
			pipeline(1, run(insert(1)), syncOf), pipeline(2, run(bad), syncOf, data, done, syncOf), pipeline(1, run(insert(2)), syncOf),
		}
	})
	parsed.fails = failsToParse
	return []conversation{
		parsed,
		in("the data is on its way", "1 2", func(bad string) []turn {
			return []turn{ask(insert(1)), pipeline(1, queryOf(bad), data, done), ask(insert(2))}
		}),
		in("data and failure come later", "1 2", func(bad string) []turn {
			return []turn{ask(insert(1)), ask(bad), pipeline(1, data, failed, queryOf(insert(2)))}
		}),
		in("in a transaction", "", func(bad string) []turn {
			return []turn{ask("begin; " + insert(1)), pipeline(2, queryOf(bad), data, done, queryOf("select 1")), ask("commit")}
		}),
		late("at execute, data in the same pipeline", "2", func(bad string) []turn {
			return []turn{prepare(bad), now(pipeline(1, run(insert(1)), execute, data, done, syncOf)), ask(insert(2))}
		}),
		late("at execute, data behind the sync", "1 2", func(bad string) []turn {
			return []turn{ask(insert(1)), prepare(bad), now(pipeline(2, execute, syncOf, data, done, syncOf)), ask(insert(2))}
		}),
		out("query", "1", func(bad string) []turn { return []turn{ask(insert(1)), ask(bad), ask("table sem")} }),
		out("second of one query", "", func(bad string) []turn { return []turn{ask(insert(1) + ";" + bad)} }),
		out("pipeline", "2", func(bad string) []turn {
			return []turn{pipeline(2, run(insert(1)), run(bad), syncOf, run(insert(2)), syncOf)}
		}),
	}
}

func cursorConversations() []conversation {
	const rows = "select id, body from sem_wide order by id"
	portal := messagesOf(&pgproto3.Parse{Query: rows}, &pgproto3.Bind{DestinationPortal: "p", ResultFormatCodes: []int16{1, 0}})
	two := &pgproto3.Execute{Portal: "p", MaxRows: 2}
	return []conversation{
		atParse("cursor", "", func(bad string) []turn {
			return []turn{ask("begin; declare c cursor for " + rows), ask("fetch 1 from c"), ask(bad), ask("fetch 1 from c"), ask("commit"), ask("fetch 1 from c")}
		}),
		atParse("cursor and savepoint", "1", func(bad string) []turn {
			return []turn{
				ask("begin; " + insert(1) + "; declare c scroll cursor for " + rows), ask("fetch 2 from c"), ask("savepoint s"), ask(bad),
				ask("fetch 1 from c"), ask("rollback to s"), ask("fetch 1 from c"), ask("fetch first from c"), ask("close c"), ask("commit"),
			}
		}),
		atParse("cursor with hold", "", func(bad string) []turn {
			return []turn{ask("begin; declare c cursor with hold for " + rows), ask("fetch 1 from c"), ask("commit"), ask(bad), ask("fetch 1 from c"), ask("close c")}
		}),
		atParse("suspended portal", "", func(bad string) []turn {
			return []turn{
				pipeline(1, portal, two, &pgproto3.Parse{Name: "d", Query: bad}, two, syncOf), pipeline(1, two, syncOf),
				pipeline(1, portal, two, two, syncOf),
			}
		}),
		atParse("suspended portal in a transaction", "", func(bad string) []turn {
			return []turn{
				ask("begin; " + insert(1)), pipeline(1, portal, two, syncOf), ask("savepoint s"), pipeline(1, two, syncOf),
				pipeline(1, &pgproto3.Parse{Query: bad}, two, syncOf), pipeline(1, two, syncOf), ask("rollback to s"),
				pipeline(1, two, &pgproto3.Close{ObjectType: 'P', Name: "p"}, syncOf), pipeline(1, two, syncOf), ask("commit"),
			}
		}),
		atParse("many rows in front of it", "", func(bad string) []turn {
			return []turn{pipeline(1, run(insert(1)), run(rows), run(bad), run(rows), syncOf), pipeline(1, run(rows), syncOf)}
		}),
	}
}
