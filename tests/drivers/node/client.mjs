// node-postgres as it comes: what a job does with it. Prints what it saw, the same on every run.

import pg from 'pg'
import Cursor from 'pg-cursor'
import { from as copyFrom, to as copyTo } from 'pg-copy-streams'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'

const say = (...what) => console.log(...what.map((one) => (typeof one === 'string' ? one : JSON.stringify(one))))

async function failing(promise) {
  try {
    say('did not fail:', (await promise).rows)
  } catch (error) {
    say(error.code, error.message, error.position, error.table, error.constraint, error.detail)
  }
}

async function values(client) {
  await client.query(`CREATE TABLE driver_values (i int, b bigint, n numeric, t text, j jsonb, a int[], m text[][],
    u uuid, ts timestamptz, by bytea, f float8, o bool)`)
  const row = [7, '1099511627776', '0.0000000001', 'ä€𝄞\'"\\', { a: [1, null] }, [1, null, 3], [['a', 'b'], ['c', null]],
    '00000000-0000-0000-0000-000000000005', new Date(Date.UTC(2026, 1, 3, 4, 5, 6, 7)), Buffer.from([0, 1, 255]), 1.5, null]
  await client.query(`INSERT INTO driver_values VALUES (${row.map((_, n) => `$${n + 1}`)})`, row)
  say((await client.query('SELECT * FROM driver_values')).rows[0])
  const binary = await client.query({ text: 'SELECT i, t, f, o, by FROM driver_values', binary: true })
  say(binary.rows[0], binary.fields.map((f) => [f.name, f.dataTypeID, f.columnID > 0, f.format]))
  say((await client.query({ text: 'SELECT 1 AS a, 2 AS a', rowMode: 'array' })).rows)
}

async function transactions(client) {
  await client.query('CREATE TABLE driver_rows (id int PRIMARY KEY, note text)')
  await client.query('BEGIN')
  await client.query('INSERT INTO driver_rows VALUES ($1, $2)', [1, 'kept'])
  await client.query('SAVEPOINT s')
  await failing(client.query('INSERT INTO driver_rows VALUES (1)'))
  await failing(client.query('SELECT 1'))
  await client.query('ROLLBACK TO s')
  await client.query('COMMIT')
  const queued = [10, 11, 12].map((id) => client.query('INSERT INTO driver_rows VALUES ($1, $2) RETURNING id', [id, null]))
  say((await Promise.all(queued)).map((result) => [result.command, result.rowCount, result.rows]))
  const several = await client.query('SELECT 1 AS one; UPDATE driver_rows SET note = 1; SELECT 2 AS two')
  say(several.map((result) => [result.command, result.rowCount, result.rows]))
  await failing(client.query('INSERT INTO driver_rows VALUES (20); SELECT 1/0; INSERT INTO driver_rows VALUES (21)'))
  say((await client.query('SELECT * FROM driver_rows ORDER BY id')).rows)
}

async function prepared(client) {
  for (let n = 0; n < 8; n++) {
    const result = await client.query({ name: 'plus', text: 'SELECT $1::int + 1 AS n', values: [n] })
    if (result.rows[0].n !== n + 1) throw new Error('wrong')
  }
  await failing(client.query({ name: 'bad', text: 'SELECT nothing FROM nowhere WHERE a = $1', values: [1] }))
  await failing(client.query('SELECT $1::int / $2::int', [1, 0]))
  await failing(client.query('SELEC 1'))
  await failing(client.query(''))
  say((await client.query("SELECT name, statement FROM pg_prepared_statements WHERE name = 'plus'")).rows)
}

async function copies(client) {
  await client.query('CREATE TABLE driver_copy (id int, t text)')
  const lines = function* () { for (let n = 0; n < 20000; n++) yield `${n}\tline ${n} \\\\ \\t\n` }
  const into = client.query(copyFrom('COPY driver_copy FROM STDIN'))
  await pipeline(Readable.from(lines()), into)
  say('copied', into.rowCount)
  let bytes = 0
  for await (const chunk of client.query(copyTo('COPY driver_copy TO STDOUT (FORMAT csv)'))) bytes += chunk.length
  say('csv', bytes)
  await pipeline(Readable.from(['x\ty\tz\n']), client.query(copyFrom('COPY driver_copy FROM STDIN')))
    .catch((error) => say(error.code, error.message))
}

async function results(client) {
  const cursor = client.query(new Cursor('SELECT g FROM generate_series(1, $1::int) g', [1000]))
  let total = 0
  for (let rows; (rows = await cursor.read(77)).length > 0;) total += rows.reduce((sum, row) => sum + row.g, 0)
  await cursor.close()
  const early = client.query(new Cursor('SELECT generate_series(1, 100000) AS g'))
  say(total, (await early.read(2)))
  await early.close()
  const big = await client.query("SELECT g, repeat('z', 100) FROM generate_series(1, 100000) g")
  say(big.rowCount, (await client.query("SELECT repeat('q', 20000000) AS q")).rows[0].q.length)
  say((await client.query('SELECT length($1)', ['w'.repeat(500000)])).rows)
}

async function listening(client, other) {
  const heard = []
  client.on('notification', (news) => heard.push([news.processId === other.processID, news.channel, news.payload]))
  client.on('notice', (notice) => say(notice.severity, notice.code, notice.message))
  await client.query('LISTEN driver_news')
  await other.query("NOTIFY driver_news, 'one'")
  await other.query('SELECT pg_notify($1, $2)', ['driver_news', 'two'])
  for (let tries = 0; heard.length < 2 && tries < 500; tries++) await sleep(10)
  say(heard)
  await client.query("DO $$ BEGIN RAISE NOTICE 'hello %', 1; RAISE WARNING 'careful'; END $$")
  setTimeout(() => other.query('SELECT pg_cancel_backend($1)', [client.processID]), 300)
  await failing(client.query('SELECT pg_sleep(30)'))
  await client.query("SET statement_timeout = '100ms'")
  await failing(client.query('SELECT pg_sleep(30)'))
  await client.query('RESET statement_timeout')
}

async function pools() {
  const pool = new pg.Pool({ max: 4 })
  const work = Array.from({ length: 40 }, (_, n) => pool.query('SELECT $1::int * 2 AS n', [n]))
  say((await Promise.all(work)).map((result) => result.rows[0].n))
  await pool.end()
}

const client = new pg.Client({ application_name: 'driver' })
const other = new pg.Client()
await Promise.all([client.connect(), other.connect()])
say((await client.query('SHOW application_name')).rows)
await values(client)
await transactions(client)
await prepared(client)
await copies(client)
await results(client)
await listening(client, other)
// The error that the server sent, then the end of the connection.
client.on('error', () => {})
const ended = once(client, 'error')
await other.query('SELECT pg_terminate_backend($1)', [client.processID])
say((await ended)[0].code)
await other.end()
await pools()
const lost = new pg.Client({ database: 'no_such_database' })
await lost.connect().catch((error) => say(error.code))
