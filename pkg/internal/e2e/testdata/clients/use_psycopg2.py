# What programs do with psycopg2, which is libpq with the text format. Each check is a line: its name, and what came.
import datetime
import decimal
import hashlib
import io
import select
import threading
import time
import uuid

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import psycopg2.extras
import psycopg2.sql


def check(name, value):
    print(f"{name}: {value!r}", flush=True)


def digest(value):
    return hashlib.sha256(value if isinstance(value, bytes) else value.encode()).hexdigest()[:16]


def connect(**more):
    return psycopg2.connect("", **more)


def failing(name, conn, sql, args=None):
    """Every field of the error but the line of the server's source."""
    cur = conn.cursor()
    try:
        cur.execute(sql, args)
        check(name, "no error")
    except psycopg2.Error as e:
        d = e.diag
        check(name, (type(e).__name__, e.pgcode, d.severity, d.message_primary, d.message_detail, d.message_hint,
                     d.statement_position, d.internal_position, d.internal_query, d.context, d.schema_name, d.table_name,
                     d.column_name, d.datatype_name, d.constraint_name, d.source_file, d.source_function))
    if not conn.autocommit:
        conn.rollback()


def types(conn):
    cur = conn.cursor()
    values = [
        None, True, 42, -2**62, decimal.Decimal("12345678901234567890.123456789"), 1.5, "text with ' and \\ and é and 你好",
        b"\x00\x01\xfe\xff", datetime.date(2024, 2, 29), datetime.time(23, 59, 59, 999999),
        datetime.datetime(2024, 2, 29, 12, 0, 0, 123456), datetime.timedelta(days=3, microseconds=7), [1, 2, None],
        ["a", "b'"], psycopg2.extras.Json({"a": [1, None]}), uuid.UUID(int=7), psycopg2.extras.NumericRange(1, 5), "",
    ]
    psycopg2.extras.register_uuid()
    for i, v in enumerate(values):
        cur.execute("select %s", (v,))
        got = cur.fetchone()[0]
        check(f"type {i}", bytes(got) if isinstance(got, memoryview) else got)
        check(f"type {i} oid", cur.description[0].type_code)
    cur.execute("select '{1.5,NaN,Infinity}'::float8[], '[1,5)'::int4range, '127.0.0.1/8'::inet, '1 year'::interval,"
                " 'a=>1'::text, xmlparse(content '<a/>')::text, '(1,2)'::point, B'101'::varbit, 'NaN'::numeric, '-infinity'::date::text")
    check("more types", cur.fetchone())
    check("description", [(c.name, c.type_code, c.internal_size, c.precision, c.scale) for c in cur.description])
    conn.rollback()


def statements(conn):
    cur = conn.cursor()
    cur.execute("create table items (id serial primary key, name varchar(20) unique not null, price numeric(10,2) check (price >= 0))")
    psycopg2.extras.execute_values(cur, "insert into items (name, price) values %s", [(f"item {i}", i) for i in range(500)])
    check("insert many", (cur.rowcount, cur.statusmessage))
    psycopg2.extras.execute_batch(cur, "update items set price = price + %s where id = %s", [(1, i) for i in range(1, 200)])
    conn.commit()
    cur.execute("select sum(price), count(*) from items")
    check("sum", cur.fetchone())
    cur.execute("select 1 as a; select 2 as b, 3 as c")
    check("two statements", (cur.fetchall(), [c.name for c in cur.description]))
    cur.execute("update items set price = 0 where id < 10 returning id, name")
    check("returning", cur.fetchall())
    conn.rollback()
    cur.execute("prepare q (int) as select name from items where id = $1")
    cur.execute("execute q (%s)", (7,))
    check("prepared", cur.fetchone())
    conn.rollback()
    failing("deallocated", conn, "deallocate nothing")
    cur.callproc("pg_catalog.int4pl", [2, 3])
    check("procedure", cur.fetchone())
    cur.execute(psycopg2.sql.SQL("select count(*) from {}").format(psycopg2.sql.Identifier("items")))
    check("composed", cur.fetchone())
    conn.commit()


def transactions(conn):
    cur = conn.cursor()
    cur.execute("insert into items (name) values ('kept')")
    cur.execute("savepoint s")
    failing_inside = None
    try:
        cur.execute("insert into items (name) values ('kept')")
    except psycopg2.errors.UniqueViolation as e:
        failing_inside = e.diag.constraint_name
    check("in error", (failing_inside, conn.info.transaction_status))
    try:
        cur.execute("select 1")
    except psycopg2.errors.InFailedSqlTransaction as e:
        check("aborted", e.pgcode)
    cur.execute("rollback to s")
    conn.commit()
    cur.execute("select count(*) from items where name = 'kept'")
    check("kept", cur.fetchone())
    conn.rollback()
    conn.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True)
    failing("read only", conn, "insert into items (name) values ('never')")
    conn.set_session(isolation_level="DEFAULT", readonly=False, deferrable=False)
    xid = conn.xid(7, "gate", "branch")
    conn.tpc_begin(xid)
    conn.cursor().execute("insert into items (name) values ('two-phase')")
    conn.tpc_prepare()
    other = connect()
    check("prepared transactions", [str(x) for x in other.tpc_recover()])
    other.close()
    conn.tpc_commit()
    check("two-phase", conn.status)


def errors(conn):
    conn.cursor().execute("create domain positive as int check (value > 0); create table child (item int references items (id))")
    conn.cursor().execute("create function fails() returns int language plpgsql as $$ begin raise exception 'own % text', 1 using"
                          " errcode='P1234', detail='d', hint='h', column='c', constraint='k', table='t', schema='s', datatype='y'; end $$")
    conn.commit()
    for name, sql in {
        "syntax": "select from where", "no column": "select 'é', nothing from items", "no table": "select 1 from nothing",
        "unique": "insert into items (name) values ('item 1')", "check": "insert into items (name, price) values ('x', -1)",
        "not null": "insert into items (name) values (null)", "foreign key": "insert into child values (-1)",
        "domain": "select (-1)::positive", "division": "select 1/0", "cast": "select 'abc'::int", "raised": "select fails()",
        "inside": "do $$ begin perform 1/0; end $$", "too long": "insert into items (name) values (repeat('x', 30))",
        "out of range": "select 300000::int2", "denied": "select * from pg_authid",
    }.items():
        failing("error: " + name, conn, sql)
    del conn.notices[:]
    cur = conn.cursor()
    cur.execute("do $$ begin raise notice 'hello %', 1; raise warning 'w' using hint = 'careful'; end $$")
    cur.execute("drop table if exists not_there")
    check("notices", conn.notices)
    conn.commit()


def cursors(conn):
    with conn.cursor("named", scrollable=True) as cur:
        cur.itersize = 37
        cur.execute("select i, repeat('x', 50) from generate_series(1, 1000) i")
        check("named cursor", sum(row[0] for row in cur))
        cur.scroll(10, mode="absolute")
        check("scrolled", cur.fetchmany(2))
    conn.commit()
    hold = conn.cursor("held", withhold=True)
    hold.execute("select i from generate_series(1, 5) i")
    conn.commit()
    check("held", hold.fetchall())
    hold.close()
    conn.commit()


def copies(conn):
    cur = conn.cursor()
    cur.execute("create table copied (id int, body text, raw bytea)")
    lines = "".join(f"{i}\tline {i} \\\\ \\N {'y' * (i % 300)}\t\\\\x0{i % 10}ff\n" for i in range(20000))
    cur.copy_expert("copy copied from stdin", io.StringIO(lines))
    check("copied in", cur.rowcount)
    for form in ("", "(format csv, header, quote '*')", "(format binary)", "(delimiter '|', null 'nil')"):
        out = io.BytesIO()
        cur.copy_expert(f"copy (select * from copied order by id) to stdout {form}", out)
        check("copied out " + form, (len(out.getvalue()), digest(out.getvalue())))
    binary = io.BytesIO()
    cur.copy_expert("copy copied to stdout (format binary)", binary)
    binary.seek(0)
    cur.execute("truncate copied")
    cur.copy_expert("copy copied from stdin (format binary)", binary)
    cur.execute("select count(*), md5(string_agg(body, ',' order by id)) from copied")
    check("binary round", cur.fetchone())
    conn.commit()
    try:
        cur.copy_expert("copy copied from stdin", io.StringIO("1\tx\n"))
    except psycopg2.Error as e:
        check("bad copy", (e.pgcode, e.diag.context, e.pgerror))
    conn.rollback()

    class Broken:
        def read(self, size):
            raise ValueError("no more")

    try:
        cur.copy_expert("copy copied from stdin", Broken())
    except Exception as e:
        check("broken copy", (type(e).__name__, getattr(e, "pgcode", None)))
    conn.rollback()
    cur.execute("select count(*) from copied")
    check("after broken", cur.fetchone())
    conn.commit()


def notifications(conn):
    other = connect()
    other.autocommit = True
    conn.autocommit = True
    cur = conn.cursor()
    cur.execute("listen news")
    for i in range(50):
        other.cursor().execute("select pg_notify('news', %s)", (f"payload {i} " + "z" * 7000,))
    got = []
    while len(got) < 50:
        if select.select([conn], [], [], 20) == ([], [], []):
            break
        conn.poll()
        while conn.notifies:
            got.append(conn.notifies.pop(0))
    check("notifications", (len(got), digest("".join(n.payload for n in got)), {n.channel for n in got}, {n.pid == other.info.backend_pid for n in got}))
    cur.execute("unlisten *")
    conn.autocommit = False
    other.close()


def cancel(conn):
    timer = threading.Timer(0.3, conn.cancel)
    timer.start()
    failing("cancelled", conn, "select pg_sleep(30)")
    timer.join()
    cur = conn.cursor()
    cur.execute("select 1")
    check("after cancel", cur.fetchone())
    conn.rollback()
    failing("timeout", conn, "set local statement_timeout = 100; select pg_sleep(30)")


def large(conn):
    cur = conn.cursor()
    text = "wide é" * 3_500_000
    cur.execute("create table wide (t text, b bytea)")
    cur.copy_expert("copy wide (t) from stdin", io.StringIO(text + "\n"))
    cur.execute("update wide set b = convert_to(t, 'UTF8')")
    cur.execute("select t, b, length(t) from wide")
    t, b, n = cur.fetchone()
    check("20 MB in one row", (n, t == text, len(b), digest(bytes(b))))
    cur.execute("select repeat('r', 1000), i from generate_series(1, 20000) i")
    check("20 MB in many rows", sum(len(r[0]) for r in cur.fetchall()))
    conn.commit()
    cur.execute("insert into wide (t) values (%s)", ("p" * 1_000_000,))
    check("parameter of 1 MB", cur.rowcount)
    conn.rollback()
    big = conn.lobject(0, "wb")
    data = bytes(range(256)) * 4096
    big.write(data)
    oid = big.oid
    big.close()
    conn.commit()
    big = conn.lobject(oid, "rb")
    check("large object", (digest(big.read()), big.seek(1000), big.tell(), big.read(5)))
    big.close()
    conn.lobject(oid, "rb").unlink()
    conn.commit()


def concurrent():
    results = [None] * 8

    def work(i):
        c = connect()
        cur = c.cursor()
        total = 0
        for j in range(100):
            cur.execute("select %s * 1000 + %s", (i, j))
            total += cur.fetchone()[0]
        c.close()
        results[i] = total

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check("8 connections", results)


def nonblocking():
    c = psycopg2.connect("", async_=True)

    def wait():
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            state = c.poll()
            if state == psycopg2.extensions.POLL_OK:
                return
            select.select([c] if state == psycopg2.extensions.POLL_READ else [], [c] if state == psycopg2.extensions.POLL_WRITE else [], [], 1)

    wait()
    cur = c.cursor()
    cur.execute("select i from generate_series(1, 1000) i")
    wait()
    check("asynchronous", len(cur.fetchall()))
    c.close()


def session():
    c = connect(options="-c statement_timeout=12345 -c DateStyle=German", application_name="gate é")
    cur = c.cursor()
    cur.execute("select current_setting('statement_timeout'), current_setting('DateStyle'), current_setting('application_name'), '2024-02-29'::date::text")
    check("options", cur.fetchone())
    check("parameters", [c.info.parameter_status(n) for n in ("client_encoding", "DateStyle", "TimeZone", "integer_datetimes", "server_encoding", "standard_conforming_strings", "IntervalStyle", "is_superuser", "session_authorization", "application_name", "in_hot_standby", "default_transaction_read_only", "search_path", "server_version")])
    check("versions", (c.server_version, c.protocol_version))
    c.set_client_encoding("LATIN1")
    cur.execute("select 'é' || chr(228)")
    check("latin 1", cur.fetchone())
    c.reset()
    c.close()
    for name, bad in {"no database": {"dbname": "nothing"}, "bad option": {"options": "-c nothing=1"}}.items():
        try:
            connect(**bad)
        except psycopg2.OperationalError as e:
            check(name, str(e).partition("failed: ")[2])


conn = connect()
for part in (types, statements, transactions, errors, cursors, copies, notifications, cancel, large):
    part(conn)
concurrent()
nonblocking()
session()
conn.close()
