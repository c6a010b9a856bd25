"""C12: an instance that was paused while another took over is refused when it goes on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from e2e.command import Cdc, until
from jetstream import stored
from tailrace_demo.servers import Nats

Make = Callable[..., Cdc]

# Where its server process has written everything to the socket; then the process is ended.
_SENT = "SELECT 1 FROM pg_stat_replication WHERE application_name = 'cdc orders' AND sent_lsn >= %s"
_HANG_UP = (
    "SELECT pg_terminate_backend(active_pid, 60000) FROM pg_replication_slots"
    " WHERE slot_name = 'orders'"
)


def place(store: str, folder: Path, database: str, nats: Nats) -> str:
    return {"sqlite": f"sqlite:{folder / 'cdc.db'}", "postgres": database, "nats": nats.url}[store]


@pytest.mark.parametrize("store", ["sqlite", "postgres", "nats"])
def test_c12_a_paused_instance_is_fenced(
    cdc: Make, database: str, nats: Nats, tmp_path: Path, store: str
) -> None:
    keys = ("sink=nats", f"sink.url={nats.url}", "source.tables=public.t", "snapshot=never")
    where = f"checkpoint={place(store, tmp_path, database, nats)}"
    first, second = cdc(*keys, where), cdc(*keys, where)
    second.log = second.log.with_name("second.log")
    second.log.touch()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        first.start().until_said("starting at")
        until(lambda: connection.execute(_SENT, ["0/0"]).fetchone(), "the stream")
        connection.execute("INSERT INTO t VALUES (1)")
        first.until_caught_up()
        first.signal(signal.SIGSTOP)
        connection.execute("INSERT INTO t SELECT generate_series(2, 9)")
        [(end,)] = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchall()
        until(lambda: connection.execute(_SENT, [end]).fetchone(), "the rows on their way")
        connection.execute(_HANG_UP)
        second.start().until_caught_up()
        first.signal(signal.SIGCONT)
        assert first.wait() == 1, first.said
        assert "another instance has taken over pipeline 'orders'" in first.said
        connection.execute("INSERT INTO t VALUES (10)")
        second.until_caught_up()
        second.stop()
    got = asyncio.run(stored(nats.url))
    assert [row["id"] for row in got.rows] == list(range(1, 11))
    assert "Traceback" not in first.said + second.said
