"""libpq 18, which psycopg's wheel brings along: TLS from the first byte, protocol 3.2 with its long cancellation keys, and
the cancellation that is itself encrypted. The connection's parameters come from the environment; prints a line for each
finding.
"""

import os
import threading
import time

import psycopg


def attempt(label, **options):
    """Opens a session, asks, has a statement cancelled, and asks again."""
    try:
        with psycopg.connect("", autocommit=True, **options) as connection:
            pgconn = connection.pgconn
            answer = connection.execute("SELECT 40 + 2").fetchone()[0]
            encrypted = bool(pgconn.ssl_in_use)
            protocol = pgconn.full_protocol_version
            cancelled = cancel(connection)
            after = connection.execute("SELECT 'after'").fetchone()[0]
            print(label, answer, f"tls={encrypted}", f"protocol={protocol}", cancelled, after, flush=True)
    except psycopg.OperationalError as error:
        print(label, "refused:", str(error).splitlines()[-1], flush=True)


def cancel(connection):
    """What a sleeping statement ends with, when another thread cancels it by libpq's own, encrypted way."""

    def later():
        time.sleep(0.3)
        connection.cancel_safe(timeout=10)

    thread = threading.Thread(target=later)
    thread.start()
    try:
        connection.execute("SELECT pg_sleep(30)")
        return "slept"
    except psycopg.errors.QueryCanceled:
        return "cancelled"
    finally:
        thread.join()


print("libpq", psycopg.pq.version() // 10000)
for negotiation in ("postgres", "direct"):
    for protocol in ("3.0", "3.2", "latest"):
        label = f"{negotiation} {protocol}:"
        attempt(label, sslnegotiation=negotiation, max_protocol_version=protocol)
attempt("at least 3.2:", sslnegotiation="direct", min_protocol_version="3.2", max_protocol_version="latest")
if os.environ.get("PLAIN_PORT"):
    plain = {"port": os.environ["PLAIN_PORT"], "sslmode": "disable"}
    attempt("plain 3.2:", max_protocol_version="3.2", **plain)
