"""asyncpg as it comes: what a job does with it. Prints what it saw, the same on every run."""

import asyncio
import datetime as dt
import decimal
import io
import time
import uuid

import asyncpg


def say(*what):
    print(*what, flush=True)


async def failing(awaitable):
    try:
        say("did not fail:", await awaitable)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        fields = [getattr(error, name, None) for name in ("sqlstate", "position", "table_name", "constraint_name")]
        say(type(error).__name__, *fields, str(error).splitlines()[0])


async def values(conn):
    row = (7, 2**40, decimal.Decimal("-0.00000000000000000001"), "ä€𝄞'\"\\", '{"a": [1, null]}', [1, None, 3],
           [["a", "b"], ["c", None]], uuid.UUID(int=5), dt.datetime(2026, 2, 3, 4, 5, 6, 7, dt.timezone.utc),
           dt.date.min, dt.timedelta(days=-3, seconds=5), bytes(range(256)), asyncpg.Range(1, 10), float("-inf"), None)
    await conn.execute("""CREATE TABLE driver_values (i int, b bigint, n numeric, t text, j jsonb, a int[], m text[][],
        u uuid, ts timestamptz, d date, iv interval, by bytea, r int4range, f float8, o bool)""")
    marks = ",".join(f"${n}" for n in range(1, len(row) + 1))
    say(await conn.execute(f"INSERT INTO driver_values VALUES ({marks})", *row))
    got = await conn.fetchrow("SELECT * FROM driver_values")
    say([a == b for a, b in zip(row, got)])
    await conn.execute("CREATE TYPE driver_mood AS ENUM ('sad', 'glad'); CREATE TYPE driver_pair AS (a int, b driver_mood)")
    # A type that the driver has to ask the catalogue about, in a statement of its own.
    say(await conn.fetchval("SELECT array[(1, 'glad')::driver_pair, $1]", (2, "sad")))
    await conn.set_type_codec("jsonb", encoder=str, decoder=len, schema="pg_catalog")
    say(await conn.fetchval("SELECT '[1, 2]'::jsonb"))


async def transactions(conn):
    await conn.execute("CREATE TABLE driver_rows (id int PRIMARY KEY, note text)")
    async with conn.transaction():
        await conn.execute("INSERT INTO driver_rows VALUES (1, 'kept')")
        try:
            async with conn.transaction():
                await conn.execute("INSERT INTO driver_rows VALUES ($1, $2)", 1, "twice")
        except asyncpg.UniqueViolationError as error:
            say(error.detail)
    transaction = conn.transaction(isolation="serializable", readonly=True, deferrable=True)
    await transaction.start()
    await failing(conn.execute("INSERT INTO driver_rows VALUES (2, 'lost')"))
    await failing(conn.fetch("SELECT 1"))
    await transaction.rollback()
    await conn.executemany("INSERT INTO driver_rows VALUES ($1, $2)", [(n, f"n{n}") for n in range(10, 2010)])
    await failing(conn.executemany("INSERT INTO driver_rows VALUES ($1, $2)", [(3000, "lost"), (10, "twice")]))
    say(await conn.fetchmany("INSERT INTO driver_rows VALUES ($1, $2) RETURNING id", [(4000, "a"), (4001, "b")]))
    say(tuple(await conn.fetchrow("SELECT count(*), min(id), max(id) FROM driver_rows")))


async def prepared(conn):
    statement = await conn.prepare("SELECT $1::int + $2::numeric, now() IS NULL")
    say([await statement.fetchval(n, decimal.Decimal("0.5")) for n in range(5)])
    say([p.name for p in statement.get_parameters()], [(a.name, a.type.name) for a in statement.get_attributes()])
    explained = await (await conn.prepare("SELECT * FROM driver_rows WHERE id = $1")).explain(1, analyze=True)
    say(explained[0]["Plan"]["Actual Rows"])
    await failing(conn.prepare("SELECT nothing FROM nowhere"))
    await failing(conn.fetch("SELECT $1::int / $2::int", 1, 0))
    await conn.execute("CREATE TABLE driver_change (a int)")
    say(await conn.fetch("SELECT * FROM driver_change"))
    await conn.execute("ALTER TABLE driver_change ADD b int; INSERT INTO driver_change VALUES (1, 2)")
    say([tuple(row) for row in await conn.fetch("SELECT * FROM driver_change")])


async def copies(conn):
    await conn.execute("CREATE TABLE driver_copy (id int, t text, n numeric)")
    records = [(n, f"tab\t line\n back\\ {n}", decimal.Decimal(n) / 8) for n in range(20_000)]
    say(await conn.copy_records_to_table("driver_copy", records=records))
    out = io.BytesIO()
    say(await conn.copy_from_table("driver_copy", output=out, format="csv"), len(out.getvalue()))
    out.seek(0)
    say(await conn.copy_to_table("driver_copy", source=out, format="csv"))
    out = io.BytesIO()
    say(await conn.copy_from_query("SELECT * FROM driver_copy WHERE id < $1", 100, output=out, format="binary"))
    say(len(out.getvalue()))
    await failing(conn.copy_to_table("driver_copy", source=io.BytesIO(b"x\ty\tz\n")))
    say(await conn.fetchval("SELECT count(*) FROM driver_copy"))


async def listening(conn, other):
    heard = asyncio.Queue()
    await conn.add_listener("driver_news", lambda *news: heard.put_nowait(news[1:]))
    await other.execute("NOTIFY driver_news, 'one'")
    await other.fetchval("SELECT pg_notify('driver_news', $1)", "two")
    for _ in range(2):
        pid, channel, payload = await asyncio.wait_for(heard.get(), 10)
        say(pid == other.get_server_pid(), channel, payload)
    notices = []
    conn.add_log_listener(lambda _, notice: notices.append((notice.severity, str(notice))))
    await conn.execute("DO $$ BEGIN RAISE NOTICE 'hello %', 1; RAISE WARNING 'careful'; END $$")
    await asyncio.sleep(0)
    say(notices)


async def cancels(conn):
    began = time.monotonic()
    try:
        await conn.fetch("SELECT pg_sleep(30)", timeout=0.3)
    except asyncio.TimeoutError:
        say("timeout")
    task = asyncio.ensure_future(conn.fetch("SELECT pg_sleep(30)"))
    await asyncio.sleep(0.2)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        say("cancelled")
    say(await conn.fetchval("SELECT 'goes on'"))
    assert time.monotonic() - began < 20


async def results(conn):
    async with conn.transaction():
        total = 0
        async for row in conn.cursor("SELECT g FROM generate_series(1, $1::int) g", 5000, prefetch=333):
            total += row[0]
        cursor = await conn.cursor("SELECT generate_series(1, 100)")
        await cursor.forward(10)
        say(total, [row[0] for row in await cursor.fetch(3)], await cursor.fetchrow())
    rows = await conn.fetch("SELECT g, repeat('z', 100) FROM generate_series(1, 100000) g")
    say(len(rows), len(await conn.fetchval("SELECT repeat('q', 20000000)")))
    say(await conn.fetchval("SELECT length($1)", "w" * 500_000))


async def pool():
    async with asyncpg.create_pool(min_size=2, max_size=4) as p:
        async def work(n):
            async with p.acquire() as conn, conn.transaction():
                return await conn.fetchval("SELECT $1::int * 2", n)
        say(await asyncio.gather(*(work(n) for n in range(40))))


async def main():
    conn, other = await asyncpg.connect(), await asyncpg.connect()
    say(conn.get_server_version(), conn.get_settings().client_encoding)
    await values(conn)
    await transactions(conn)
    await prepared(conn)
    await copies(conn)
    await listening(conn, other)
    await cancels(conn)
    await results(conn)
    await conn.reset()
    pid = conn.get_server_pid()
    await conn.close()
    conn = await asyncpg.connect(server_settings={"application_name": "driver", "search_path": "pg_catalog"})
    say(await conn.fetchval("SHOW application_name"), await conn.fetchval("SHOW search_path"), pid != conn.get_server_pid())
    await other.execute("SELECT pg_terminate_backend($1)", conn.get_server_pid())
    await asyncio.sleep(0.2)
    await failing(conn.fetch("SELECT 1"))
    await failing(asyncpg.connect(database="no_such_database"))
    await other.close()
    await pool()


asyncio.run(main())
