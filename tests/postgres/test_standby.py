"""Standbys: read from (P33), and promoted when the primary is gone (P02)."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from findings import the
from pipelines import DEADLINE, Notes, Run, delivered_once, pipeline, running, sql
from postgres.checking import checked
from servers.standby import Standby
from sources import opened, started
from tailrace.errors import ConfigError, PositionLostError, TransientError
from tailrace.event import Event, Position, Transaction
from tailrace_demo.servers import Postgres
from tailrace_postgres import slots
from tailrace_postgres.chunks import one_snapshot
from tailrace_postgres.tables import one_table
from tailrace_postgres.writers import writers_ended

T = "CREATE TABLE t (id int PRIMARY KEY)"
FAST = {"fsync": "off", "full_page_writes": "off", "wal_receiver_status_interval": "100ms"}


def insert(n: int) -> str:
    return f"INSERT INTO t VALUES ({n})"


def numbers(events: list[Event]) -> list[int]:
    return [(event.after or {})["id"] for event in events]


def pair(folder: Path, version: int, **settings: str) -> tuple[Postgres, Standby]:
    primary = Postgres(folder / "primary", version=version, settings={**FAST, **settings})
    return primary, Standby(folder / "standby", primary)


async def nudged(run: Run, primary: str) -> None:
    """The stream of a new slot on a standby begins once the primary logs who is running."""
    while not run.pipeline.stats.position:
        sql(primary, "SELECT pg_log_standby_snapshot()")
        await run.until(lambda: True)
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("version", [18, 16])
def test_reading_from_a_standby(
    embedded: Path,
    version: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slots, "_PATIENCE", 0.01)
    primary, standby = pair(embedded, version)
    with primary, standby:
        sql(primary.dsn, T, insert(1))
        standby.catch_up()
        with pytest.raises(ConfigError) as caught:
            delivered_once(standby.dsn)
        statement = 'CREATE PUBLICATION "test" FOR ALL TABLES'
        assert f"run on the primary: {statement};" in str(caught.value)
        missing = the("error", "publication", checked(standby.dsn))
        assert "test is missing, and this is a standby" in missing.text
        assert (missing.mend or "").endswith("; -- on the primary")
        sql(primary.dsn, statement)
        standby.catch_up()

        async def scenario() -> list[Event]:
            store = Notes()
            async with running(standby.dsn, store) as run:
                await nudged(run, primary.dsn)
                await run.until_backfilled()
                await writer_on(primary, standby)
                sql(primary.dsn, insert(2))
                first = await run.until_events(2)
            sql(primary.dsn, insert(3))
            await asyncio.to_thread(standby.restart)
            async with running(standby.dsn, store) as run:
                return first + await run.until_events(1)

        with caplog.at_level(logging.WARNING):
            events = asyncio.run(scenario())
    assert [event.op for event in events] == ["r", "c", "c"]
    assert numbers(events) == [1, 2, 3]
    assert "on an idle primary run SELECT pg_log_standby_snapshot()" in caplog.text


async def writer_on(primary: Postgres, standby: Standby) -> None:
    """A standby waits for whoever writes at the primary, as it cannot see to which table."""
    with psycopg.connect(primary.dsn) as writer:
        writer.execute(insert(4).encode())
        sql(primary.dsn, "CREATE TABLE other ()")
        await asyncio.to_thread(standby.catch_up)
        async with await AsyncConnection.connect(standby.dsn, autocommit=True) as connection:
            table = await one_table(connection, "public", "t", "test")
            assert table is not None
            waiting = asyncio.create_task(writers_ended(connection, table))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(waiting), 0.5)
            assert not await read_shows(standby, writer)
            writer.rollback()
            sql(primary.dsn, "DROP TABLE other")
            await asyncio.wait_for(waiting, DEADLINE)


async def read_shows(standby: Standby, writer: psycopg.Connection) -> bool:
    """Whether a read of tables without a key at the standby has what `writer` did."""
    [(xid,)] = writer.execute("SELECT pg_current_xact_id()::text").fetchall()

    async def nothing(*_: object) -> Any:
        raise AssertionError

    connection = await AsyncConnection.connect(standby.dsn, autocommit=True)
    async with one_snapshot(connection, [], nothing, nothing) as reading:
        return reading.shows(Transaction(Position("0/0"), 0, xid))


def test_p33_a_slot_invalidated_by_a_recovery_conflict(embedded: Path) -> None:
    primary, standby = pair(embedded, 18)
    with primary, standby:
        sql(primary.dsn, T, "CREATE PUBLICATION test FOR ALL TABLES")
        standby.catch_up()
        store = Notes()

        async def scenario() -> None:
            async with running(standby.dsn, store, snapshot="never") as run:
                await nudged(run, primary.dsn)
                sql(primary.dsn, insert(1))
                await run.until_events(1)
                sql(primary.dsn, "CREATE TABLE gone ()", "DROP TABLE gone", "VACUUM FULL pg_class")
                await run.until(lambda: False)

        with pytest.raises(PositionLostError) as caught:
            asyncio.run(scenario())
        said = lost(standby.dsn, store)
    assert str(caught.value) == said
    assert "was invalidated: the primary removed rows that decoding on this standby needed" in said
    assert "hot_standby_feedback = on" in said


def lost(dsn: str, store: Notes) -> str:
    run = pipeline(dsn, store, snapshot="never")
    with pytest.raises(PositionLostError) as caught:
        asyncio.run(asyncio.wait_for(run.pipeline.run(), DEADLINE))
    assert not run.events
    return str(caught.value)


def test_p02_a_promoted_standby_without_the_slot(embedded: Path) -> None:
    primary, standby = pair(embedded, 18)
    with primary, standby:
        sql(primary.dsn, T)
        store = Notes()

        async def scenario() -> None:
            async with running(primary.dsn, store, snapshot="never") as run:
                await run.streaming()
                sql(primary.dsn, insert(1))
                await run.until_events(1)

        asyncio.run(scenario())
        standby.catch_up()
        primary.stop()
        standby.promote()
        assert "replication slot 'test' is gone" in lost(standby.dsn, store)
        assert sql(standby.dsn, "SELECT 1 FROM pg_replication_slots") == []


def test_p02_a_failover_slot_goes_on_at_the_promoted_standby(embedded: Path) -> None:
    """The pipeline runs on; its dsn names both servers."""
    primary, standby = pair(embedded, 18)
    standby.settings |= {"hot_standby_feedback": "on", "sync_replication_slots": "on"}
    with primary, standby:
        sql(primary.dsn, T)
        keys = {"failover": True}
        both = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        dsn = f"postgresql://postgres@{both}/postgres?target_session_attrs=read-write"

        async def scenario() -> list[Event]:
            async with running(dsn, snapshot="never", keys=keys) as run:
                await run.streaming()
                n = 0
                while not synced(standby):
                    n += 1
                    sql(primary.dsn, insert(n))
                    await run.until_events(n)
                    sql(primary.dsn, "SELECT pg_log_standby_snapshot()")
                with pytest.raises(TransientError, match="can be read once this server"):
                    await begun(standby.dsn)
                sql(primary.dsn, insert(n + 1), insert(n + 2))
                await run.until_events(n + 2)
                await asyncio.to_thread(standby.catch_up)
                await asyncio.to_thread(primary.stop)
                await asyncio.to_thread(standby.promote)
                sql(standby.dsn, insert(n + 3))
                return await run.until_events(n + 3)

        events = asyncio.run(scenario())
    assert numbers(events) == list(range(1, len(events) + 1))


async def begun(dsn: str) -> None:
    async with opened(dsn, slot="test") as source:
        await started(source)


def synced(standby: Standby) -> bool:
    """Whether the standby has a copy of the slot that outlives the primary."""
    query = "SELECT 1 FROM pg_replication_slots WHERE synced AND NOT temporary"
    return bool(sql(standby.dsn, query))


def test_p02_a_standby_that_had_not_received_everything(embedded: Path) -> None:
    """Its log has grown past the saved position since, but it is another log."""
    primary, standby = pair(embedded, 18)
    with primary, standby:
        sql(primary.dsn, T, "CREATE PUBLICATION test FOR ALL TABLES")
        standby.catch_up()
        store = Notes()

        async def scenario() -> None:
            async with running(standby.dsn, snapshot="never") as own:
                await nudged(own, primary.dsn)  # so that it has a slot of this name
            await asyncio.to_thread(standby.stop)
            async with running(primary.dsn, store, snapshot="never") as run:
                await run.streaming()
                sql(primary.dsn, insert(1))
                await run.until_events(1)

        asyncio.run(scenario())
        primary.stop()
        standby.start()
        standby.promote()
        sql(standby.dsn, "INSERT INTO t SELECT generate_series(2, 10000)")
        said = lost(standby.dsn, store)
    assert "lies on timeline 1, which the server, on timeline 2, left at" in said
    assert "promoted without having received everything" in said
