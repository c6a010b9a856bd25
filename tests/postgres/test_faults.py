"""What servers, networks and people do to a pipeline (the numbers of the fault catalogue)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psycopg
import pytest
from msgspec.structs import replace

from pipelines import DEADLINE, Notes, confirmed, eventually, pipeline, running, sql
from servers.proxy import Proxy
from servers.tidy import drop_database
from tailrace.errors import ConfigError, PositionLostError
from tailrace.event import Event
from tailrace_demo.servers import Postgres

TABLE = "CREATE TABLE t (id int PRIMARY KEY)"
WALSENDER = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name"


def numbers(events: list[Event]) -> list[int]:
    return [(event.after or {})["id"] for event in events]


@pytest.mark.parametrize("fault", ["fast", "immediate", "walsender", "admin", "all"])
def test_p01_the_pipeline_goes_on_after(postgres: Postgres, database: str, fault: str) -> None:
    sql(database, TABLE)

    async def scenario() -> list[Event]:
        async with running(database) as run:
            await run.until_backfilled()
            sql(database, "INSERT INTO t SELECT generate_series(1, 100)")
            await run.until_events(100)
            if fault in ("fast", "immediate"):
                await asyncio.to_thread(postgres.restart, fault)
            else:
                hit(database, fault)
            sql(database, "INSERT INTO t SELECT generate_series(101, 200)")
            await run.until(lambda: 200 in numbers(run.events))
            return run.events

    events = asyncio.run(scenario())
    assert sorted(set(numbers(events))) == list(range(1, 201))
    assert len({event.id for event in events}) == 200


def hit(dsn: str, fault: str) -> None:
    which = {"walsender": "= 'walsender'", "admin": "= 'client backend'", "all": "<> ''"}[fault]
    sql(
        dsn,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        f" WHERE application_name = 'cdc test' AND backend_type {which}",
    )


def test_p01_connections_that_are_cut(
    postgres: Postgres, database: str, proxy: Callable[[int], Proxy]
) -> None:
    sql(database, TABLE)
    way = proxy(postgres.port)

    async def scenario() -> list[Event]:
        dsn = database.replace(str(postgres.port), str(way.port))
        async with running(dsn) as run:
            await run.until_backfilled()
            for n in range(5):
                sql(database, f"INSERT INTO t SELECT generate_series({n * 1000}, {n * 1000 + 999})")
                await asyncio.to_thread(way.cut if n % 2 else way.reset)
            await run.until(lambda: 4999 in numbers(run.events))
            return run.events

    events = asyncio.run(scenario())
    assert sorted(set(numbers(events))) == list(range(5000))
    assert len({event.id for event in events}) == 5000


def lost(dsn: str, store: Notes) -> str:
    """What a start with that checkpoint says; it delivers nothing."""
    run = pipeline(dsn, store)
    with pytest.raises(PositionLostError) as caught:
        asyncio.run(asyncio.wait_for(run.pipeline.run(), DEADLINE))
    assert not run.sink.batches
    assert caught.value.exit_status == 3
    assert caught.value.mend
    return str(caught.value)


def used(dsn: str) -> Notes:
    """The checkpoint of a pipeline that has delivered a row and ended."""
    store = Notes()

    async def scenario() -> None:
        async with running(dsn, store) as run:
            await run.until(lambda: run.pipeline.stats.position)
            sql(dsn, "INSERT INTO t VALUES (1)")
            await run.until_events(1)

    sql(dsn, TABLE)
    asyncio.run(scenario())
    return store


CREATE_SLOT = "SELECT pg_create_logical_replication_slot('test', 'pgoutput')"
DROP_SLOT = "SELECT pg_drop_replication_slot('test')"


def test_p03_a_slot_that_was_dropped(each_database: str) -> None:
    store = used(each_database)
    sql(each_database, DROP_SLOT, "INSERT INTO t VALUES (2)")
    assert "replication slot 'test' is gone" in lost(each_database, store)
    assert sql(each_database, "SELECT 1 FROM pg_replication_slots WHERE slot_name='test'") == []


def test_p03_a_slot_that_was_made_again(each_database: str) -> None:
    store = used(each_database)
    sql(each_database, DROP_SLOT, "INSERT INTO t VALUES (2)", CREATE_SLOT)
    assert "ahead of the saved position" in lost(each_database, store)


def test_p03_a_slot_that_was_moved(database: str) -> None:
    store = used(database)
    sql(
        database,
        "INSERT INTO t VALUES (2)",
        "SELECT pg_replication_slot_advance('test', pg_current_wal_insert_lsn())",
    )
    assert "ahead of the saved position" in lost(database, store)


def test_p03_dropped_while_it_runs(database: str) -> None:
    sql(database, TABLE)

    async def scenario() -> None:
        async with running(database) as run:
            await run.until(lambda: run.pipeline.stats.position)
            with psycopg.connect(database, autocommit=True) as connection:
                for _ in range(200):
                    try:
                        connection.execute(f"{WALSENDER} = 'test'".encode())
                        connection.execute(DROP_SLOT.encode())
                        break
                    except psycopg.errors.ObjectInUse:
                        continue
            await run.until(lambda: False)

    with pytest.raises(PositionLostError, match="'test' is gone"):
        asyncio.run(scenario())


def test_p03_the_checkpoint_of_another_cluster(
    postgres: Postgres, database: str, database16: str
) -> None:
    store = used(database16)
    sql(database, TABLE)
    assert "the checkpoint of pipeline 'test' is for pg:" in lost(database, store)


@pytest.mark.parametrize("policy", ["fail", "resnapshot"])
def test_the_address_leads_to_another_cluster_from_one_moment_on(
    postgres: Postgres,
    postgres16: Postgres,
    database: str,
    proxy: Callable[[int], Proxy],
    policy: str,
) -> None:
    """As a name does that is given to another server; that has a database of the same name."""
    name = database.rpartition("/")[2]
    other = f"{postgres16.dsn.rpartition('/')[0]}/{name}"
    sql(postgres16.dsn, f'CREATE DATABASE "{name}"')
    sql(database, TABLE, "INSERT INTO t VALUES (1)")
    sql(other, TABLE, "INSERT INTO t VALUES (2)")
    way = proxy(postgres.port)

    async def scenario() -> list[Event]:
        dsn = database.replace(str(postgres.port), str(way.port))
        async with running(dsn, on_lost=policy) as run:
            await run.until_events(1)
            way.upstream = postgres16.port
            await asyncio.to_thread(way.cut)
            return list(await run.until_events(2))

    try:
        if policy == "fail":
            with pytest.raises(PositionLostError, match="leads to pg:"):
                asyncio.run(scenario())
        else:
            assert numbers(asyncio.run(scenario())) == [1, 2]
    finally:
        drop_database(postgres16, name)


def test_p04_a_slot_that_was_invalidated(embedded: Path) -> None:
    settings = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    with Postgres(embedded, settings={**settings, "fsync": "off"}) as server:
        store = used(server.dsn)
        for _ in range(4):
            sql(server.dsn, "SELECT pg_switch_wal()", "CREATE TABLE x ()", "DROP TABLE x")
        sql(server.dsn, "CHECKPOINT")
        status = "SELECT wal_status FROM pg_replication_slots"
        assert sql(server.dsn, status) == [("lost",)]
        assert "was invalidated" in lost(server.dsn, store)


def test_p05_a_checkpoint_from_before(database: str) -> None:
    store = used(database)
    early = next(saved for saved in store.saved if saved.position)
    old = Notes()
    asyncio.run(old.claim("test", replace(early, epoch=0)))
    assert "ahead of the saved position" in lost(database, old)


def test_a_slot_without_a_checkpoint(database: str) -> None:
    used(database)
    assert "has no checkpoint" in lost(database, Notes())


def test_a_slot_of_another_plugin(database: str) -> None:
    sql(database, TABLE, "SELECT pg_create_logical_replication_slot('x', 'pgoutput', true)")
    sql(database, "SELECT pg_create_physical_replication_slot('physical')")
    try:
        run = pipeline(database, keys={"slot": "physical"})
        with pytest.raises(ConfigError, match="not for pgoutput"):
            asyncio.run(asyncio.wait_for(run.pipeline.run(), DEADLINE))
    finally:
        sql(database, "SELECT pg_drop_replication_slot('physical')")


def test_p06_a_slow_sink_keeps_its_connection(database: str) -> None:
    """The sink blocks four times as long as the server waits for a sign of life."""
    sql(database, TABLE, "ALTER SYSTEM SET wal_sender_timeout = '2s'", "SELECT pg_reload_conf()")
    sender = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'test'"

    async def scenario() -> None:
        async with running(database, snapshot="never", batch_events=10) as run:
            await run.until(lambda: run.pipeline.stats.position)
            sql(database, "INSERT INTO t VALUES (0)")
            await run.until_events(1)
            pid = sql(database, sender)
            run.sink.gate.clear()
            [(before,)] = sql(database, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
            for _ in range(20):
                sql(database, "INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t")
            loop = asyncio.get_running_loop()
            until = loop.time() + 8
            while loop.time() < until:
                assert sql(database, sender) == pid
                assert confirmed(database) <= before
                await asyncio.sleep(0.1)
            run.sink.gate.set()
            await run.until_events(21)
            await run.until(lambda: confirmed(database) > before)
            assert sql(database, sender) == pid
            assert run.pipeline.stats.retries == 0

    try:
        asyncio.run(scenario())
    finally:
        sql(database, "ALTER SYSTEM RESET wal_sender_timeout", "SELECT pg_reload_conf()")


def reached(dsn: str, lsn: int) -> bool:
    return confirmed(dsn) >= lsn


def test_p08_p09_idle_tables_do_not_hold_the_slot_back(each_database: str) -> None:
    """No table of heartbeats is needed for that, so none can be left out of the publication."""
    sql(each_database, TABLE, "CREATE TABLE busy (n int)")

    async def scenario() -> None:
        async with running(each_database, keys={"tables": "public.t"}) as run:
            await run.until(lambda: run.pipeline.stats.position)
            for _ in range(3):
                sql(each_database, "INSERT INTO busy SELECT generate_series(1, 1000)")
                [(target,)] = sql(
                    each_database, "SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint"
                )
                await run.until(partial(reached, each_database, target))
            assert not run.events

    asyncio.run(scenario())


def test_c11_the_second_waits_and_takes_over(
    each_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    sql(each_database, TABLE)
    store = Notes()

    async def scenario() -> tuple[list[Event], list[Event]]:
        async with running(each_database, store) as first:
            await first.until_backfilled()
            sql(each_database, "INSERT INTO t SELECT generate_series(1, 100)")
            await first.until_events(100)
            second = pipeline(each_database, store)
            second.task = asyncio.create_task(second.pipeline.run())
            try:
                await eventually(lambda: second.pipeline.stats.error)
                [(pid,)] = sql(
                    each_database,
                    "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'test'",
                )
                assert f"in use by the server process {pid}" in second.pipeline.stats.error
                sql(each_database, "INSERT INTO t SELECT generate_series(101, 200)")
                await first.until_events(200)
                assert not second.events
                first.pipeline.drain()
                assert first.task
                await first.task
                sql(each_database, "INSERT INTO t SELECT generate_series(201, 300)")
                await second.until(lambda: 300 in numbers(second.events))
            finally:
                second.pipeline.drain()
                await second.task
            return first.events, second.events

    with caplog.at_level(logging.WARNING):
        first, second = asyncio.run(scenario())
    assert sorted(numbers(first + second)) == list(range(1, 301))
    assert "another instance of this pipeline is running" in caplog.text
