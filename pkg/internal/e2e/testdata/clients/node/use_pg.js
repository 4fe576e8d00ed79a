// What programs do with node-postgres: its own implementation of the protocol. Each check is a line: its name, and what
// came.
'use strict'
const crypto = require('crypto')
const fs = require('fs')
const { Readable } = require('stream')
const { pipeline } = require('stream/promises')
const pg = require('pg')
const Cursor = require('pg-cursor')
const copy = require('pg-copy-streams')

const check = (name, value) => console.log(name + ': ' + JSON.stringify(value))
const digest = (data) => crypto.createHash('sha256').update(data).digest('hex').slice(0, 16)
const fields = ['severity', 'code', 'message', 'detail', 'hint', 'position', 'internalPosition', 'internalQuery', 'where',
  'schema', 'table', 'column', 'dataType', 'constraint', 'file', 'routine']

// Nothing is asked of the system's certificates.
const ssl = process.env.PGSSLMODE === 'verify-full' && { ca: fs.readFileSync(process.env.PGSSLROOTCERT) }

async function connect (more) {
  const c = new pg.Client({ ssl, ...more })
  await c.connect()
  return c
}

async function failing (name, what) {
  try {
    check(name, (await what).rows)
  } catch (e) {
    check(name, e.code ? fields.map((f) => e[f]) : e.message)
  }
}

const summary = (r) => [r.command, r.rowCount, r.rows, r.fields.map((f) => [f.name, f.tableID > 0, f.columnID, f.dataTypeID, f.dataTypeSize, f.dataTypeModifier, f.format])]

async function types (c) {
  const values = [['bool', true], ['int4', -7], ['int8', '4611686018427387904'], ['numeric', '12345678901234567890.123456789'], ['float8', 1.5],
    ['text', "é 你好 '\\"], ['bytea', Buffer.from([0, 255])], ['date', '2024-02-29'], ['timestamptz', new Date(0)], ['interval', '3 days'],
    ['uuid', '00000000-0000-0000-0000-000000000007'], ['json', { a: [1, null] }], ['jsonb', { a: 'é' }], ['int4[]', [1, 2, 3]],
    ['text[]', ['a', 'b"c']], ['point', '(1,2)'], ['int4range', '[1,5)'], ['inet', '10.0.0.1'], ['text', null], ['text', '']]
  for (const [type, value] of values) {
    const r = await c.query(`select $1::${type} as v`, [value])
    check('type ' + type, summary(r))
    const b = await c.query({ text: `select $1::${type} as v`, values: [value], binary: true }).catch((e) => ({ command: e.message, fields: [] }))
    check('binary ' + type, summary(b))
  }
  check('array rows', (await c.query({ text: 'select 1 as a, 2 as a', rowMode: 'array' })).rows)
}

async function statements (c) {
  await c.query('create table items (id serial primary key, name varchar(20) unique not null, price numeric(10,2) check (price >= 0))')
  for (let i = 0; i < 200; i++) await c.query({ name: 'insert', text: 'insert into items (name, price) values ($1, $2)', values: [`item ${i}`, i] })
  check('sum', summary(await c.query('select sum(price), count(*) from items')))
  check('column', summary(await c.query('select id, name, price from items where id = $1', [7])))
  check('returning', summary(await c.query('update items set price = 1 where id < $1 returning id', [5])))
  check('several', (await c.query('select 1 as a; select 2 as b, 3 as c')).map(summary))
  check('empty', [(await c.query('')).rowCount, (await c.query('-- nothing')).rowCount])
  await failing('another text for a name', c.query({ name: 'insert', text: 'select 1' }))
}

async function transactions (c) {
  await c.query('begin')
  await c.query("insert into items (name) values ('kept')")
  await c.query('savepoint s')
  await failing('unique', c.query('insert into items (name) values ($1)', ['kept']))
  await failing('aborted', c.query('select 1'))
  await c.query('rollback to s')
  check('commit', (await c.query('commit')).command)
  await c.query('begin')
  await failing('division', c.query('select 1/0'))
  check('commit after an error', (await c.query('commit')).command)
}

async function errors (c) {
  await c.query(`create table child (item int references items (id)); create domain positive as int check (value > 0);
    create function fails(x int) returns int language plpgsql as $$ begin raise exception 'own % text', x using errcode='P1234', detail='d',
    hint='h', column='c', constraint='k', table='t', schema='s', datatype='y'; end $$`)
  for (const [name, text, ...values] of [['syntax', 'select from where'], ['no column', "select 'é', nothing from items"],
    ['unique', 'insert into items (name) values ($1)', 'item 1'], ['check', "insert into items (name, price) values ('x', $1)", -1],
    ['not null', 'insert into items (name) values ($1)', null], ['foreign key', 'insert into child values ($1)', -1],
    ['domain', 'select ($1::int)::positive', -1], ['raised', 'select fails($1)', 7], ['cast', 'select $1::int', 'abc'],
    ['too few', 'select $1::int, $2::int', 1], ['several with values', 'select $1::int; select 2', 1]]) {
    await failing('error: ' + name, c.query(text, values.length ? values : undefined))
  }
  const notices = []
  c.on('notice', (n) => notices.push([n.severity, n.code, n.message, n.hint]))
  await c.query("do $$ begin raise notice 'hello'; raise warning 'w' using hint = 'careful'; end $$")
  check('notices', notices)
}

async function cursors (c) {
  const cursor = c.query(new Cursor('select i, repeat($1, 50) as r from generate_series(1, 1000) i', ['x']))
  let total = 0
  for (let rows = await cursor.read(37); rows.length; rows = await cursor.read(37)) total += rows.reduce((s, r) => s + r.i, 0)
  check('cursor', total)
  const left = c.query(new Cursor('select i from generate_series(1, 1000) i'))
  check('part', (await left.read(3)).length)
  await left.close()
  check('after part', (await c.query('select 1 as a')).rows)
}

async function copies (c) {
  await c.query('create table copied (id int, body text)')
  const lines = []
  for (let i = 0; i < 20000; i++) lines.push(`${i}\tline ${i} ${'y'.repeat(i % 300)}\n`)
  await pipeline(Readable.from(lines), c.query(copy.from('copy copied from stdin')))
  check('copied in', (await c.query('select count(*), md5(string_agg(body, $1 order by id)) from copied', [','])).rows)
  for (const form of ['', '(format csv, header)', '(format binary)']) {
    const parts = []
    const out = c.query(copy.to(`copy (select * from copied order by id) to stdout ${form}`))
    for await (const p of out) parts.push(p)
    check('copied out ' + form, [Buffer.concat(parts).length, digest(Buffer.concat(parts))])
  }
  await pipeline(Readable.from(['x\ty\n']), c.query(copy.from('copy copied from stdin'))).catch((e) => check('bad copy', [e.code, e.where]))
  const broken = (async function * () { yield '1\tx\n'; throw new Error('no more') })()
  await pipeline(Readable.from(broken), c.query(copy.from('copy copied from stdin'))).catch((e) => check('broken copy', e.code || e.message))
  check('after copies', (await c.query('select count(*) from copied')).rows)
}

async function notifications (c) {
  const other = await connect()
  const got = []
  const done = new Promise((resolve) => c.on('notification', (n) => { if (got.push(n) === 50) resolve() }))
  await c.query('listen news')
  for (let i = 0; i < 50; i++) await other.query("select pg_notify('news', $1)", [`payload ${i} ` + 'z'.repeat(7000)])
  await done
  check('notifications', [digest(got.map((n) => n.payload).join('')), got.every((n) => n.channel === 'news' && n.processId === other.processID)])
  await other.end()
}

async function cancel (c) {
  const other = await connect()
  const slow = failing('cancelled', c.query('select pg_sleep(30)'))
  const timer = setTimeout(() => new pg.Client({ ssl, port: c.port, host: c.host }).cancel(c, c.activeQuery || c._activeQuery), 300)
  const timer2 = setTimeout(() => other.query('select pg_cancel_backend($1)', [c.processID]).catch(() => {}), 5000)
  await slow
  clearTimeout(timer)
  clearTimeout(timer2)
  await other.end()
  check('after cancel', (await c.query('select 1 as a')).rows)
}

async function large (c) {
  await c.query('create table wide (t text, b bytea)')
  await pipeline(Readable.from(['wide é'.repeat(3000000) + '\t\\N\n']), c.query(copy.from('copy wide from stdin')))
  await c.query("update wide set b = convert_to(t, 'UTF8')")
  const { t, b } = (await c.query('select t, b from wide')).rows[0]
  check('20 MB in one row', [t.length, digest(t), b.length, digest(b)])
  const many = await c.query("select repeat('r', 1000) as r from generate_series(1, 20000) i")
  check('many rows', many.rows.reduce((n, r) => n + r.r.length, 0))
  check('parameter of 900 kB', (await c.query('select length($1::bytea) as n', [Buffer.alloc(900000)])).rows)
}

async function concurrent () {
  const pool = new pg.Pool({ ssl, max: 8 })
  const all = []
  for (let i = 0; i < 200; i++) all.push(pool.query('select $1::int * 1000 as v', [i]))
  check('pool', (await Promise.all(all)).reduce((sum, r) => sum + r.rows[0].v, 0))
  await pool.end()
}

async function session () {
  const c = await connect({ application_name: 'gate é', statement_timeout: 12345, options: '-c DateStyle=German' })
  check('settings', (await c.query("select current_setting('statement_timeout') as s, current_setting('application_name') as a, '2024-02-29'::date::text as d")).rows)
  await c.end()
  await connect({ database: 'nothing' }).catch((e) => check('no database', [e.severity, e.code, e.message]))
}

async function main () {
  const c = await connect()
  for (const part of [types, statements, transactions, errors, cursors, copies, notifications, cancel, large]) await part(c)
  await c.end()
  await concurrent()
  await session()
}

main().catch((e) => { console.error(e); process.exit(1) })
