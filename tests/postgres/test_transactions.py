"""What a transaction is: large, aborted, nested, prepared; truncates of several tables."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from pipelines import Notes, in_transaction, running, sql
from sources import events_of, opened, read, started, streamed
from tailrace.errors import ConfigError
from tailrace.event import Event
from tailrace_demo.servers import Postgres

T = "CREATE TABLE t (id int PRIMARY KEY)"


def numbers(events: list[Event]) -> list[int]:
    return [(event.after or event.before or {})["id"] for event in events]


def test_p20_larger_than_the_servers_memory(each_database: str) -> None:
    """What is spilled to disk is read once it has committed; what was aborted never is."""
    sql(each_database, T, "ALTER TABLE t ALTER id TYPE bigint", "ALTER TABLE t ADD filler text")

    def insert(first: int) -> str:
        return f"INSERT INTO t SELECT {first} + i, repeat('x', 100) FROM generate_series(0, 2999) i"

    async def scenario() -> list[Event]:
        dsn = f"{each_database}?options=-c%20logical_decoding_work_mem%3D64kB"
        async with opened(dsn) as source:
            start = await started(source)
            with psycopg.connect(each_database) as aborted, psycopg.connect(each_database) as kept:
                for connection, first in ((aborted, 0), (kept, 10_000), (aborted, 3000)):
                    connection.execute(insert(first).encode())
                for statement in ("SAVEPOINT s", insert(20_000), "ROLLBACK TO s", insert(30_000)):
                    kept.execute(statement.encode())
                aborted.rollback()
            return events_of(await read(source, start))

    events = asyncio.run(scenario())
    assert numbers(events) == [*range(10_000, 13_000), *range(30_000, 33_000)]
    assert len({event.position for event in events}) == 1
    spilled = "SELECT spill_txns > 0 FROM pg_stat_replication_slots WHERE slot_name = 'test'"
    assert sql(each_database, spilled) == [(True,)]


def test_p22_savepoints(each_database: str) -> None:
    sql(each_database, T)
    events = streamed(
        each_database,
        (
            "INSERT INTO t VALUES (1)",
            "SAVEPOINT a",
            "INSERT INTO t VALUES (2)",
            "SAVEPOINT b",
            "INSERT INTO t VALUES (3)",
            "ROLLBACK TO b",
            "INSERT INTO t VALUES (4)",
            "RELEASE a",
            "SAVEPOINT c",
            "TRUNCATE t",
            "ROLLBACK TO c",
            "INSERT INTO t VALUES (5)",
        ),
    )
    assert numbers(events) == [1, 2, 4, 5]
    assert [event.id.rsplit(":", 1)[1] for event in events] == ["1", "2", "3", "4"]
    assert len({(event.txid, event.position) for event in events}) == 1


def test_p23_truncate_cascades_to_what_is_published(each_database: str) -> None:
    sql(
        each_database,
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE b (id serial PRIMARY KEY, a int REFERENCES a)",
        "CREATE TABLE c (id int PRIMARY KEY, b int REFERENCES b)",
        "CREATE TABLE hidden (id int PRIMARY KEY, b int REFERENCES b)",
    )
    events = streamed(
        each_database,
        "TRUNCATE a RESTART IDENTITY CASCADE",
        ("INSERT INTO a VALUES (1)", "TRUNCATE b, c, hidden", "INSERT INTO a VALUES (2)"),
        tables=("public.*", "!public.hidden"),
    )
    first, second = events[:3], events[3:]
    assert sorted(event.table.name for event in first) == ["a", "b", "c"]
    assert len({event.id for event in first}) == 3
    assert [(event.op, event.key, event.before, event.after) for event in first] == [
        ("t", None, None, None)
    ] * 3
    assert [event.op for event in second] == ["c", "t", "t", "c"]
    assert sorted(event.table.name for event in second[1:3]) == ["b", "c"]


def prepare(dsn: str, name: str, *statements: str) -> None:
    in_transaction(dsn, *statements, f"PREPARE TRANSACTION '{name}'")


def test_p21_prepared_transactions_come_when_they_commit(
    postgres: Postgres, preparing: str
) -> None:
    """The server is restarted between."""
    sql(preparing, T, "CREATE TABLE other (id int PRIMARY KEY)")
    store = Notes()

    async def scenario() -> list[Event]:
        async with running(preparing, store, snapshot="never") as run:
            await run.streaming()
            prepare(preparing, "kept", "INSERT INTO t VALUES (1)", "SAVEPOINT s", "TRUNCATE other")
            prepare(preparing, "dropped", "INSERT INTO t VALUES (3)")
            sql(preparing, "INSERT INTO t VALUES (4)")
            await run.until_events(1)
        seen = run.events
        await asyncio.to_thread(postgres.restart, "immediate")
        async with running(preparing, store, snapshot="never") as run:
            sql(preparing, "INSERT INTO t VALUES (5)")
            await run.until_events(1)
            sql(preparing, "ROLLBACK PREPARED 'dropped'", "COMMIT PREPARED 'kept'")
            sql(preparing, "INSERT INTO t VALUES (6)")
            await asyncio.sleep(3)
            print([(e.op, e.table.name, e.after) for e in run.events], run.pipeline.stats)
            await run.until_events(4)
        return seen + run.events

    events = asyncio.run(scenario())
    assert [event.op for event in events] == ["c", "c", "c", "t", "c"]
    assert numbers(events[:3] + events[4:]) == [4, 5, 1, 6]
    assert len({event.position for event in events[2:4]}) == 1


def test_p21_a_slot_that_would_deliver_them_when_they_are_prepared(each_database: str) -> None:
    sql(each_database, T)
    sql(each_database, "SELECT pg_create_logical_replication_slot('s', 'pgoutput', false, true)")
    with pytest.raises(ConfigError, match="'s' has two_phase on"):
        streamed(each_database, slot="s")


def test_c07_rows_that_share_one_place_in_the_log(each_database: str) -> None:
    """COPY and INSERT of several rows write one record for many."""
    sql(each_database, T)

    async def scenario() -> None:
        async with opened(each_database, batch_events=1) as source:
            start = await started(source)
            with psycopg.connect(each_database) as connection:
                with connection.cursor().copy("COPY t FROM STDIN") as copy:
                    copy.write("1\n2\n3\n")
                connection.execute("INSERT INTO t VALUES (4), (5), (6)")
            batches = await read(source, start)
            done = 0
            for batch in batches:
                done += len(batch.events)
                rest = await read(source, batch.position)
                assert numbers(events_of(rest)) == list(range(done + 1, 7))

    asyncio.run(scenario())
