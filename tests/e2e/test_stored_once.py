"""What a restart replays is not stored twice in NATS, long after the stream has forgotten the ids;
and of a transaction the stream has all or nothing, whoever is killed.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from e2e.command import Cdc, until
from e2e.history import History, Seen, in_stream
from jetstream import count, make_stream
from tailrace_demo.servers import Nats

Make = Callable[..., Cdc]
BATCH = 200
SMALL = (f"batch.events={BATCH}", f"snapshot.chunk={BATCH}")
WINDOW = 1.0
SHORT: dict[str, Any] = {"duplicate_window": 1_000_000_000, "allow_atomic": True}


def stream(nats: Nats) -> list[Seen]:
    return asyncio.run(in_stream(nats.url, "orders"))


def outlast_the_window() -> None:
    time.sleep(WINDOW + 0.2)


@pytest.mark.parametrize(
    ("batched", "keys"),
    [(True, ()), (False, ()), (True, ("sink.atomic=true",))],
    ids=["fast", "pubacks", "atomic"],
)
def test_c03_n03_killed_before_the_checkpoint_and_back_after_the_window(
    cdc: Make, database: str, nats: Nats, batched: bool, keys: tuple[str, ...]
) -> None:
    history = History(database, tables=1, rows=300)
    history.create()
    asyncio.run(make_stream(nats.url, allow_batched=batched, **SHORT))
    pipeline = cdc("sink=nats", f"sink.url={nats.url}", *SMALL, *keys)
    pipeline.start(failpoint="durable:2:kill").until_died()  # in the backfill
    outlast_the_window()
    pipeline.once()
    with history.writing():
        pipeline.start(failpoint="durable:5:kill").until_died()
    outlast_the_window()
    pipeline.once()
    assert "the sink has everything up to" in pipeline.said
    history.truth().check(stream(nats), repeats=0)


def test_n03_a_checkpoint_restored_from_an_older_copy(
    cdc: Make, database: str, nats: Nats, tmp_path: Path
) -> None:
    """The slot has moved on since; the stream knows how far."""
    history = History(database, tables=1, rows=300)
    history.create()
    asyncio.run(make_stream(nats.url, allow_batched=True, **SHORT))
    pipeline = cdc("sink=nats", f"sink.url={nats.url}", *SMALL)
    pipeline.once()
    copy = shutil.copy(tmp_path / "cdc.db", tmp_path / "copy.db")
    with history.writing() as writers:
        pipeline.start()
        until(lambda: writers[0].transactions > 60, "some work")
        pipeline.until_caught_up()
        pipeline.stop()
    shutil.copy(copy, tmp_path / "cdc.db")
    outlast_the_window()
    pipeline.once()
    assert "the sink has everything up to" in pipeline.said
    history.truth().check(stream(nats), repeats=0)


def test_a_transaction_is_stored_whole_or_not_at_all_whoever_is_killed(
    cdc: Make, database: str, nats: Nats
) -> None:
    """Looked at after each death; each row says how many there are in its transaction."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id bigserial PRIMARY KEY, size int)")
        connection.execute("INSERT INTO t (size) SELECT 0 FROM generate_series(1, 1200)")
    asyncio.run(make_stream(nats.url, allow_batched=True, **SHORT))
    pipeline = cdc("sink=nats", f"sink.url={nats.url}", "sink.atomic=true")
    pipeline.once()
    sizes = [300, 1, 1_000, 1, 2, 40]
    for point in ("read:3", "durable:1"):
        pipeline.start(failpoint=f"{point}:kill")
        commit(database, sizes)
        pipeline.until_died()
        until_whole(nats)
    before = asyncio.run(count(nats.url))
    pipeline.start()
    commit(database, sizes)
    until(lambda: asyncio.run(count(nats.url)) > before, "some of it")
    nats.kill()
    pipeline.kill()
    nats.start()
    until_whole(nats)
    pipeline.once()
    found = transactions(nats)
    assert [size for size, _ in found] == sizes * 3
    assert all(size == stored for size, stored in found)
    rows = [event for event in stream(nats) if event.op == "r"]
    assert len(rows) == len({event.id for event in rows}) == 1_200


def until_whole(nats: Nats) -> None:
    """The server may still be at the last batch of who has died: wait until it is through."""
    until(
        lambda: all(size == stored for size, stored in transactions(nats)),
        "whole transactions and nothing else",
        patience=10,
    )


def commit(database: str, sizes: list[int]) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        for size in sizes:
            query = f"INSERT INTO t (size) SELECT {size} FROM generate_series(1, {size})"
            connection.execute(query.encode())


def transactions(nats: Nats) -> list[tuple[int, int]]:
    """How many rows each transaction has, and how many of them the stream."""
    seen = [event for event in stream(nats) if event.op == "c"]
    stored = Counter(event.source["txid"] for event in seen)
    sizes = {event.source["txid"]: event.after["size"] for event in seen if event.after}
    return [(sizes[txid], stored[txid]) for txid in stored]
