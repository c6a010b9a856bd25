"""Positions: inside a transaction, and never released before they are saved."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from pipelines import Notes, confirmed, pipeline, running, sql
from tailrace.event import Batch, Event, Position
from tailrace_postgres.lsn import Place
from tailrace_postgres.source import PostgresSource

ROWS = 10_000
LAST = {"id": ROWS}


async def read_until(
    source: PostgresSource, after: Position | None, last: Mapping[str, Any] = LAST
) -> list[Batch]:
    """The stream's batches up to the row with the last number."""
    batches = []
    stream = source.stream(after)
    try:
        async with asyncio.timeout(30):
            async for batch in stream:
                batches.append(batch)
                if batch.events and batch.events[-1].after == last:
                    return batches
    finally:
        await stream.aclose()
    raise AssertionError


def events_of(batches: list[Batch]) -> list[Event]:
    return [event for batch in batches for event in batch.events]


def test_a_transaction_is_resumed_in_its_middle(each_database: str) -> None:
    sql(each_database, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE other (n int)")

    async def scenario() -> None:
        run = pipeline(each_database, batch_events=97)
        source = run.source
        assert isinstance(source, PostgresSource)
        async with source:
            first = source.stream(None)
            start = (await anext(first)).position
            await first.aclose()
            sql(
                each_database,
                "INSERT INTO other VALUES (1)",
                f"INSERT INTO t SELECT generate_series(1, {ROWS})",
            )
            batches = await read_until(source, start)
            events = events_of(batches)
            assert [event.after for event in events[1:]] == [{"id": n + 1} for n in range(ROWS)]
            ids = [event.id for event in events]
            assert len(set(ids)) == len(ids)
            assert len(batches) > ROWS // 97
            assert all(len(batch.events) <= 97 for batch in batches)
            inside = [batch.position for batch in batches if Place.parse(batch.position).done]
            assert len(set(inside)) > 50
            done = 0
            for at, batch in enumerate(batches):
                done += len(batch.events)
                if at % 20 == 0 and done < len(ids):
                    rest = events_of(await read_until(source, batch.position))
                    assert [event.id for event in rest] == ids[done:]
            # Nothing was released, so the slot stands where it stood.
            assert confirmed(each_database) <= Place.parse(start).lsn

    asyncio.run(scenario())


def test_what_is_released_is_saved_and_ends_a_transaction(each_database: str) -> None:
    sql(each_database, "CREATE TABLE t (id int PRIMARY KEY)")
    store = Notes()

    async def scenario() -> None:
        async with running(each_database, store, snapshot="never", batch_events=500) as run:
            await run.until(lambda: store.saved)
            sql(each_database, f"INSERT INTO t SELECT generate_series(1, {ROWS})")
            sql(each_database, "INSERT INTO t VALUES (0)")
            started = confirmed(each_database)

            def moved() -> bool:
                lsn = confirmed(each_database)
                saved = [Place.parse(c.position) for c in store.saved if c.position]
                assert lsn <= max(saved).lsn
                whole = {place.lsn for place in saved if not place.done}
                assert lsn == started or lsn in whole
                return lsn > started and len(run.events) == ROWS + 1

            await run.until(moved)
            # The server tells of the connection's last report.
            last = max(Place.parse(c.position) for c in store.saved if c.position)
            assert last.lsn > started

    asyncio.run(scenario())
    assert any(Place.parse(c.position).done for c in store.saved if c.position)


def test_pipelines_that_follow_each_other_give_everything_once(each_database: str) -> None:
    """Drained in the middle of a transaction, again and again."""
    sql(each_database, "CREATE TABLE t (id int PRIMARY KEY)")
    store = Notes()

    async def scenario() -> list[Event]:
        async with running(each_database, store, snapshot="never") as run:
            await run.until(lambda: run.pipeline.stats.position)
        sql(each_database, f"INSERT INTO t SELECT generate_series(1, {ROWS})")
        events: list[Event] = []
        while len(events) < ROWS:
            async with running(each_database, store, snapshot="never", batch_events=300) as run:
                await run.until_events(1)
            assert len(run.events) < ROWS
            events += run.events
        return events

    events = asyncio.run(scenario())
    assert [event.after for event in events] == [{"id": n + 1} for n in range(ROWS)]


def test_whole_transactions_are_not_cut_unless_they_alone_are_too_large(each_database: str) -> None:
    """In rows or in bytes; beside the captured table there is one that is not."""
    limit, most = 50, 20_000
    sizes = [1, 49, 3, 120, 1, 1, 30, 30, 30, 2, 60, 1]
    sql(each_database, "CREATE TABLE t (id int PRIMARY KEY, note text)", "CREATE TABLE x (n int)")

    async def scenario() -> list[Batch]:
        keys = {"tables": "public.t"}
        run = pipeline(each_database, keys=keys, batch_events=limit, batch_bytes=most)
        source = run.source
        assert isinstance(source, PostgresSource)
        source.setup = replace(source.setup, whole=True)
        async with source:
            first = source.stream(None)
            start = (await anext(first)).position
            await first.aclose()
            low = 1
            for size in sizes:
                high = low + size
                sql(
                    each_database,
                    "INSERT INTO x VALUES (1)",
                    f"INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series({low},"
                    f" {high - 1}) n",
                )
                low = high
            wide = (
                f"INSERT INTO t SELECT {low} + n, repeat('y', 3000) FROM generate_series(0, 29) n"
            )
            sql(each_database, wide, f"INSERT INTO t VALUES ({ROWS}, '')")
            return await read_until(source, start, {"id": ROWS, "note": ""})

    batches = asyncio.run(scenario())
    transactions: dict[str, list[int]] = {}
    for n, batch in enumerate(batches):
        for event in batch.events:
            transactions.setdefault(event.position, []).append(n)
    assert [len(parts) for parts in transactions.values()] == [*sizes, 30, 1]
    cut = [len(parts) for parts in transactions.values() if len(set(parts)) > 1]
    assert cut == [120, 60, 30]
    assert max(len(batch.events) for batch in batches) <= limit
