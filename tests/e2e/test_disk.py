"""C14: there is no room for the checkpoint while everything else goes on."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from e2e.command import Cdc, until
from e2e.history import History, in_stream
from jetstream import count
from tailrace_demo.servers import Nats

Make = Callable[..., Cdc]
BATCH = 200
ROOM = 8_192
"""Enough for the log, which is a file as well, and not for SQLite's."""


def limit(pipeline: Cdc, size: int) -> None:
    """No file of the process may be longer: writing on fails as on a full disk.

    Stands in for a small file system, which only root may mount.
    """
    resource.prlimit(pipeline.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def confirmed(database: str) -> str:
    with psycopg.connect(database) as connection:
        query = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots"
        [(lsn,)] = connection.execute(query).fetchall()
        return str(lsn)


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_c14_a_full_disk_holds_the_source_and_heals_when_there_is_room(
    cdc: Make, database: str, nats: Nats, tmp_path: Path
) -> None:
    history = History(database, rows=100, tables=1, pace=0.01)
    history.create()
    pipeline = cdc("sink=nats", f"sink.url={nats.url}", f"batch.events={BATCH}")
    pipeline.start().until_caught_up(history.names)
    with history.writing() as writers:
        limit(pipeline, ROOM)
        pipeline.until_said(r"checkpoint: .*cdc\.db.*trying again")
        held, stored = confirmed(database), asyncio.run(count(nats.url))
        written = writers[0].transactions + 50
        until(lambda: writers[0].transactions > written, "the writers to go on")
        assert confirmed(database) == held, "released, but not saved"
        assert asyncio.run(count(nats.url)) - stored <= 2 * BATCH, "it goes on without saving"
        limit(pipeline, resource.RLIM_INFINITY)
        pipeline.until_said("checkpoint: works again")
    pipeline.until_caught_up()
    assert confirmed(database) != held
    pipeline.stop()
    history.truth().check(asyncio.run(in_stream(nats.url, "orders")), repeats=0)
