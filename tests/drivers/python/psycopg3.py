"""psycopg 3 as it comes: what a job does with it. Prints what it saw, the same on every run."""

import asyncio
import datetime as dt
import decimal
import ipaddress
import threading
import time
import uuid

import psycopg
from psycopg import errors, sql
from psycopg.types.json import Jsonb
from psycopg.types.range import Range
from psycopg_pool import ConnectionPool


def say(*what):
    print(*what, flush=True)


def failing(conn, statement, *arguments):
    try:
        conn.execute(statement, *arguments)
    except psycopg.Error as error:
        d = error.diag
        say(type(error).__name__, error.sqlstate, d.message_primary, d.statement_position, d.table_name)
    else:
        say("did not fail:", statement)


def values(conn):
    conn.execute("""CREATE TABLE driver_values (i int, b bigint, n numeric, t text, j jsonb, a int[], m text[][], u uuid,
        ts timestamptz, d date, iv interval, by bytea, ip inet, r int4range, f float8, o bool)""")
    row = (7, 2**40, decimal.Decimal("12345678901234567890.0123456789"), "ä€𝄞'\"\\", Jsonb({"a": [1, None, "x"]}),
           [1, None, 3], [["a", "b"], ["c", None]], uuid.UUID(int=5), dt.datetime(2026, 2, 3, 4, 5, 6, 7, dt.timezone.utc),
           dt.date(1, 1, 1), dt.timedelta(days=-3, seconds=5), bytes(range(256)), ipaddress.ip_interface("10.0.0.1/8"),
           Range(1, 10), float("inf"), None)
    conn.execute(f"INSERT INTO driver_values VALUES ({','.join(['%s'] * len(row))})", row)
    for binary in (False, True):
        got = conn.execute("SELECT * FROM driver_values", binary=binary).fetchone()
        say("values", "binary" if binary else "text", [a == b for a, b in zip(row, got)])
    columns = conn.execute("SELECT * FROM driver_values").description
    say([(c.name, c.type_code, c.internal_size) for c in columns])


def transactions(conn):
    conn.execute("CREATE TABLE driver_rows (id int PRIMARY KEY, note text)")
    with conn.transaction():
        conn.execute("INSERT INTO driver_rows VALUES (1, 'kept')")
        try:
            with conn.transaction():
                conn.execute("INSERT INTO driver_rows VALUES (2, 'lost')")
                conn.execute("INSERT INTO driver_rows VALUES (1, 'twice')")
        except errors.UniqueViolation as error:
            say(error.diag.constraint_name, error.diag.message_detail)
    conn.autocommit = False
    conn.execute("INSERT INTO driver_rows VALUES (3, 'lost')")
    failing(conn, "SELECT 1/0")
    failing(conn, "SELECT 1")
    say(conn.info.transaction_status.name)
    conn.rollback()
    conn.execute("INSERT INTO driver_rows VALUES (4, 'kept')")
    conn.commit()
    conn.autocommit = True
    with conn.cursor() as cur:
        cur.executemany("INSERT INTO driver_rows VALUES (%s, %s)", [(n, f"n{n}") for n in range(10, 60)])
        say("executemany", cur.rowcount)
        cur.executemany("UPDATE driver_rows SET note = note || '!' WHERE id = %s RETURNING note",
                        [(10,), (11,)], returning=True)
        say(cur.fetchall(), cur.nextset(), cur.fetchall())
    say(conn.execute("SELECT count(*), min(id), max(id) FROM driver_rows").fetchone())


def prepared(conn):
    for n in range(12):
        assert conn.execute("SELECT %s::int + 1", (n,)).fetchone() == (n + 1,)
    say("prepared", conn.execute("SELECT count(*) > 0 FROM pg_prepared_statements").fetchone())
    conn.prepared_max = 2
    for n in range(20):
        conn.execute(f"SELECT {n} + %s::int", (n,), prepare=True)
    conn.execute("DEALLOCATE ALL")
    failing(conn, "SELECT nothing FROM nowhere WHERE a = %s", (1,))
    failing(conn, "SELEC 1")
    # A table that changes under a prepared statement.
    conn.execute("CREATE TABLE driver_change (a int)")
    for _ in range(8):
        conn.execute("SELECT * FROM driver_change", prepare=True)
    conn.execute("ALTER TABLE driver_change ADD b int")
    failing(conn, "SELECT * FROM driver_change")
    say(len(conn.execute("SELECT * FROM driver_change", prepare=False).description))


def pipelines(conn):
    with conn.pipeline() as p:
        cursors = [conn.execute("SELECT %s::int", (n,)) for n in range(200)]
        p.sync()
        say("pipeline", sum(c.fetchone()[0] for c in cursors))
    try:
        with conn.pipeline() as p:
            conn.execute("INSERT INTO driver_rows VALUES (100, 'lost')")
            conn.execute("SELECT 1/0")
            conn.execute("INSERT INTO driver_rows VALUES (101, 'lost')")
            p.sync()
    except errors.DivisionByZero as error:
        say(type(error).__name__)
    cursors = []
    with conn.pipeline():
        # Libpq's own error handling: what stands behind a failure is aborted, up to the next Sync.
        pgconn = conn.pgconn
        for statement in (b"SELECT 1", b"SELECT 1/0", b"SELECT 2"):
            pgconn.send_query_params(statement, None)
        pgconn.pipeline_sync()
        pgconn.send_query_params(b"SELECT 3", None)
        pgconn.pipeline_sync()
        while len(cursors) < 6:
            result = pgconn.get_result()
            if result is not None:
                cursors.append(result.status)
    say([psycopg.pq.ExecStatus(status).name for status in cursors])
    with conn.pipeline(), conn.transaction():
        conn.execute("INSERT INTO driver_rows VALUES (102, 'kept')")
        say(conn.execute("SELECT count(*) FROM driver_rows WHERE id >= 100").fetchone())
    say(conn.execute("SELECT id FROM driver_rows WHERE id >= 100").fetchall(), conn.info.pipeline_status.name)


def copies(conn):
    cur = conn.cursor()
    conn.execute("CREATE TABLE driver_copy (id int, t text, n numeric)")
    with cur.copy("COPY driver_copy FROM STDIN") as copy:
        for n in range(20_000):
            copy.write_row((n, f"tab\t line\n back\\ {n}", decimal.Decimal(n) / 8))
    say("copied", cur.rowcount)
    with cur.copy("COPY driver_copy FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int4", "text", "numeric"])
        for n in range(1000):
            copy.write_row((-n, None, decimal.Decimal("NaN")))
    for form in ("text", "csv", "binary"):
        with cur.copy(f"COPY (SELECT * FROM driver_copy ORDER BY id) TO STDOUT (FORMAT {form})") as copy:
            say(form, sum(len(data) for data in copy))
    with cur.copy("COPY (SELECT id, t FROM driver_copy WHERE id BETWEEN 1 AND 3 ORDER BY id) TO STDOUT") as copy:
        copy.set_types(["int4", "text"])
        say(list(copy.rows()))
    try:
        with cur.copy("COPY driver_copy FROM STDIN") as copy:
            copy.write("1\tx\n")
    except psycopg.Error as error:
        say(type(error).__name__, error.sqlstate)
    try:
        with cur.copy("COPY driver_copy FROM STDIN") as copy:
            copy.write("1\tx\t1\n")
            raise ValueError("mine")
    except ValueError as error:
        say(error)
    say(conn.execute("SELECT count(*), sum(id) FROM driver_copy").fetchone())


def listening(conn, other):
    conn.execute("LISTEN driver_news")
    sender = other.info.backend_pid
    assert other.execute("SELECT pg_backend_pid()").fetchone()[0] == sender
    other.execute("NOTIFY driver_news, 'one'")
    other.execute("SELECT pg_notify('driver_news', 'two')")
    for notify in conn.notifies(timeout=10, stop_after=2):
        say(notify.channel, notify.payload, notify.pid == sender)
    conn.execute("UNLISTEN *")
    notices = []
    conn.add_notice_handler(lambda d: notices.append((d.severity, d.sqlstate, d.message_primary)))
    conn.execute("DO $$ BEGIN RAISE NOTICE 'hello %', 1; RAISE WARNING 'careful'; END $$")
    say(notices)


def cancels(conn):
    for cancel in (conn.cancel_safe, conn.cancel):
        timer = threading.Timer(0.3, cancel)
        timer.start()
        began = time.monotonic()
        failing(conn, "SELECT pg_sleep(30)")
        assert time.monotonic() - began < 20
        timer.join()
    conn.execute("SET statement_timeout = '100ms'")
    failing(conn, "SELECT pg_sleep(30)")
    conn.execute("RESET statement_timeout")


def cursors(conn):
    with conn.transaction():
        with conn.cursor(name="big") as cur:
            cur.itersize = 700
            cur.execute("SELECT g, repeat('x', g % 50) FROM generate_series(1, 5000) g")
            say("cursor", sum(row[0] for row in cur))
        with conn.cursor(name="scrolls", scrollable=True) as cur:
            cur.execute("SELECT generate_series(1, 100)")
            cur.scroll(50)
            say(cur.fetchone(), cur.scroll(-10), cur.fetchmany(2))
    with conn.cursor() as cur:
        total = sum(len(row[0]) for row in cur.stream("SELECT repeat('y', 1000) FROM generate_series(1, 3000)"))
        say("stream", total)
        cur.execute("SELECT 1; SELECT 2, 3; CREATE TEMP TABLE driver_temp (a int); SELECT 4")
        seen = [cur.fetchall()]
        while cur.nextset():
            seen.append(cur.fetchall() if cur.description else cur.statusmessage)
        say(seen)
    rows = conn.execute("SELECT g, repeat('z', 100) FROM generate_series(1, 100000) g").fetchall()
    say("big result", len(rows), len(conn.execute("SELECT repeat('q', 20000000)").fetchone()[0]))
    say("big value", conn.execute("SELECT length(%s)", ("w" * 500_000,)).fetchone())
    say(conn.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("driver_copy"))).fetchone())


def two_phases(conn):
    conn.autocommit = False
    xid = conn.xid(1, "driver", "branch")
    conn.tpc_begin(xid)
    conn.execute("INSERT INTO driver_rows VALUES (200, 'prepared')")
    conn.tpc_prepare()
    conn.tpc_commit()
    conn.autocommit = True
    say(conn.execute("SELECT note FROM driver_rows WHERE id = 200").fetchone())


def pool():
    with ConnectionPool("", min_size=2, max_size=4, kwargs={"autocommit": True}) as p:
        def work(n, got):
            with p.connection() as conn:
                got.append(conn.execute("SELECT %s::int * 2", (n,)).fetchone()[0])
        got = []
        threads = [threading.Thread(target=work, args=(n, got)) for n in range(20)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        say("pool", sorted(got))


async def concurrently():
    async def one(n):
        async with await psycopg.AsyncConnection.connect("") as conn:
            cur = await conn.execute("SELECT %s::int, current_setting('application_name')", (n,))
            return (await cur.fetchone())[0]
    say("async", await asyncio.gather(*(one(n) for n in range(10))))


def main():
    with psycopg.connect("", autocommit=True) as conn, psycopg.connect("", autocommit=True) as other:
        say(conn.info.parameter_status("server_version"), conn.info.encoding)
        values(conn)
        transactions(conn)
        prepared(conn)
        pipelines(conn)
        copies(conn)
        listening(conn, other)
        cancels(conn)
        cursors(conn)
        two_phases(conn)
        other.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))
        failing(conn, "SELECT 1")
        say(conn.closed, conn.broken)
    try:
        psycopg.connect("dbname=no_such_database")
    except psycopg.OperationalError as error:
        say("no_such_database" in str(error))
    pool()
    asyncio.run(concurrently())


main()
