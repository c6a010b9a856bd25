"""C17: the sink stands still while the database does not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from e2e.command import Cdc, needs_proc, until
from e2e.history import in_stream, without_repeats
from jetstream import count
from servers.proxy import Proxy
from tailrace_demo.servers import Nats

Make = Callable[..., Cdc]
LIMIT = 150_000_000
ROWS_A_SECOND = 5_000


def write_rows(dsn: str, stopped: threading.Event) -> None:
    """Transactions of 500 rows, ROWS_A_SECOND of them a second."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        at, began = 0, time.monotonic()
        while not stopped.is_set():
            query = "INSERT INTO t SELECT n, repeat('x', 200) FROM generate_series(%s::int, %s) n"
            connection.execute(query, [at, at + 499])
            at += 500
            stopped.wait(max(0.0, began + at / ROWS_A_SECOND - time.monotonic()))


def sender(dsn: str) -> int | None:
    """The server process that streams to us."""
    with psycopg.connect(dsn) as connection:
        query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'orders'"
        [(pid,)] = connection.execute(query).fetchall()
        return None if pid is None else int(pid)


@needs_proc
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seconds", [7, pytest.param(60, marks=pytest.mark.torture)])
def test_c17_memory_is_bounded_and_the_source_stays_connected(
    cdc: Make, database: str, nats: Nats, proxy: Callable[[int], Proxy], seconds: int
) -> None:
    """The server hangs up on a client that is silent for 2 s (wal_sender_timeout)."""
    way = proxy(nats.port)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, filler text)")
    dsn = f"{database}?options=-c%20wal_sender_timeout%3D2000"
    pipeline = cdc("sink=nats", f"sink.url=nats://127.0.0.1:{way.port}", dsn=dsn)
    stopped = threading.Event()
    writer = threading.Thread(target=write_rows, args=[database, stopped], daemon=True)
    pipeline.start().until_said("created replication slot")
    writer.start()
    until(lambda: asyncio.run(count(nats.url)) > ROWS_A_SECOND, "the first events")
    way.freeze()
    served = sender(database)
    time.sleep(seconds)
    assert sender(database) == served is not None
    way.thaw()
    stopped.set()
    writer.join()
    pipeline.until_caught_up(patience=120)
    assert pipeline.peak < LIMIT
    pipeline.stop()
    seen = without_repeats(asyncio.run(in_stream(nats.url, "orders")))
    ids = [event.after["id"] for event in seen if event.op == "c" and event.after]
    assert ids == sorted(ids)
    delivered = {event.after["id"] for event in seen if event.after}
    assert delivered == set(range(max(delivered) + 1))
