"""The rows that are there: read in chunks, resumed, and merged with what writers do meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from pipelines import Notes, delivered_once, fold, running, sql
from tailrace.connector import Chunk
from tailrace.errors import ConfigError
from tailrace.event import Batch, Event, Position
from tailrace.schema import TableSchema
from tailrace_postgres.source import PostgresSource

KEYS = {
    "int": "k int",
    "text": "k text",
    "uuid": "k uuid",
    "timestamptz": "k timestamptz",
    "numeric": "k numeric",
    "bytea": "k bytea",
    "float8": "k float8",
    "date": "k date",
    "interval": "k interval",
    "inet": "k inet",
    "array": "k int[]",
    "bool_int": "k1 bool, k int",
    "enum": "k1 mood, k int",
}
ICU_KEYS = {"blind": 'k text COLLATE "blind"', "german": 'k text COLLATE "de-x-icu"'}
OF_NUMBER = {
    "int": "n - 50",
    "text": "repeat(chr(65 + n % 50), n % 7 + 1) || E'\\\\t''' || n",
    "uuid": "md5(n::text)::uuid",
    "timestamptz": "CASE n WHEN 1 THEN '-infinity' WHEN 2 THEN 'infinity'"
    " ELSE '2026-01-01'::timestamptz + n * interval '1 us' END",
    "numeric": "CASE n WHEN 1 THEN 'NaN' ELSE n / 7.0 END",
    "bytea": "decode(md5(n::text), 'hex') || '\\x005c27'",
    "float8": "CASE n WHEN 1 THEN 'NaN' WHEN 2 THEN '-Infinity' ELSE n * 1e300 / 7 END",
    "date": "CASE n WHEN 1 THEN 'infinity' WHEN 2 THEN '0044-03-15 BC' ELSE '2026-01-01'::date + n"
    " END",
    "interval": "n * interval '1 mon -3 days 04:05:06.789'",
    "inet": "'10.0.0.0'::inet + n * 1000",
    "array": "ARRAY[n % 3, NULL, n]",
    "bool_int": "n % 2 = 0, n",
    "enum": "(ARRAY['sad', 'ok', 'it''s \\ fine'])[n % 3 + 1]::mood, n",
    "blind": "chr(96 + n) || 'X'",
    "german": "(ARRAY['Ä', 'a', 'z', 'Z', 'ö', 'o'])[n % 6 + 1] || n / 6",
}
MOOD = "CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s \\ fine')"
BLIND = "CREATE COLLATION blind (provider=icu, locale='und-u-ks-level2', deterministic=false)"


def keys_of(events: list[Event]) -> list[Any]:
    return [tuple((event.key or {}).values()) for event in events]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_every_row_once_in_key_order(each_database: str, size: int) -> None:
    read_by_keys(each_database, KEYS, [MOOD], size)


@pytest.mark.parametrize("size", [1, 7])
def test_text_keys_in_their_own_collation(database15: str, size: int) -> None:
    read_by_keys(database15, ICU_KEYS, [BLIND], size)


def read_by_keys(dsn: str, keys: dict[str, str], made: list[str], size: int) -> None:
    for name, column in keys.items():
        key = "k1, k" if column.startswith("k1") else "k"
        made.append(f"CREATE TABLE t_{name} ({column}, n int, PRIMARY KEY ({key}))")
        made.append(
            f"INSERT INTO t_{name} SELECT {OF_NUMBER[name]}, n FROM generate_series(1, 20) n"
        )
    made.append("CREATE TABLE two (a int, b text, n int, PRIMARY KEY (b, a))")
    made.append("INSERT INTO two SELECT n % 3, n / 3, n FROM generate_series(1, 20) n")
    made.append("CREATE TABLE empty (id int PRIMARY KEY)")
    sql(dsn, *made)
    events = delivered_once(dsn, snapshot_chunk=size)
    assert {event.op for event in events} == {"r"}
    assert len({event.id for event in events}) == len(events) == 20 * (len(keys) + 1)
    for table in [f"t_{name}" for name in keys] + ["two"]:
        order = {"two": "b, a", "t_enum": "k1, k", "t_bool_int": "k1, k"}.get(table, "k")
        rows = sql(dsn, f"SELECT n FROM {table} ORDER BY {order}")
        numbers = [(e.after or {})["n"] for e in events if e.table.name == table]
        assert numbers == [n for (n,) in rows]


def test_a_wide_table_is_read_within_the_bytes_of_a_batch(database: str) -> None:
    sql(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, wide text)",
        "INSERT INTO t SELECT n, repeat('x', 100000) FROM generate_series(1, 40) n",
    )

    async def scenario() -> list[Batch]:
        async with running(database, batch_bytes=500_000) as run:
            await run.until_backfilled()
            await run.until_events(40)
            return run.sink.batches

    batches = asyncio.run(scenario())
    assert max(batch.size for batch in batches) <= 700_000
    assert sorted(keys_of([e for b in batches for e in b.events])) == [(n,) for n in range(1, 41)]


def test_it_resumes_in_the_middle_of_a_table(database: str) -> None:
    """What is repeated is at most what was not saved, under the same ids."""
    sql(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, n int)",
        "INSERT INTO t SELECT n, n FROM generate_series(1, 100) n",
    )
    store = Notes()

    async def scenario() -> tuple[list[Event], list[Event]]:
        async with running(database, store, snapshot_chunk=7, grace=0.2) as run:
            await run.until_events(21)
        first = run.events
        assert len(first) < 100
        done = store.saved[-1].tables["public.t"]
        assert done.rows == len(first)
        async with running(database, store, snapshot_chunk=7) as run:
            await run.until_backfilled()
            await run.until_events(100 - len(first))
        return first, run.events

    first, second = asyncio.run(scenario())
    assert keys_of(first + second) == [(n,) for n in range(1, 101)]


def test_a_chunk_read_again_has_the_same_ids(database: str) -> None:
    sql(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, n int)",
        "INSERT INTO t SELECT n, n FROM generate_series(1, 20) n",
    )
    store = Notes()

    async def scenario() -> tuple[list[Event], list[Event]]:
        async with running(database, store, snapshot_chunk=7) as run:
            await run.until_backfilled()
            await run.until_events(20)
        halfway = next(s for s in store.saved if s.tables["public.t"].rows == 7)
        again = Notes()
        await again.claim("test", replace(halfway, position=store.saved[-1].position, epoch=0))
        sql(database, "UPDATE t SET n = -1 WHERE id = 20")
        async with running(database, again, snapshot_chunk=7) as second:
            await second.until_backfilled()
            await second.until(lambda: sum(e.op == "r" for e in second.events) >= 12)
        return run.events, second.events

    first, second = asyncio.run(scenario())
    ids = {event.id for event in first}
    repeated = [event for event in second if event.op == "r" and event.key != {"id": 20}]
    assert len(repeated) == 12
    assert {event.id for event in repeated} <= ids
    assert all(event.id not in ids for event in second if event.key == {"id": 20})


def churn(dsn: str, stop: threading.Event, errors: list[BaseException]) -> None:
    """Changes of every kind, fast, all over the table."""
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            n = 0
            while not stop.is_set():
                n += 1
                for statement in (
                    "UPDATE t SET n = n + 1 WHERE id % 13 = %(n)s % 13",
                    "DELETE FROM t WHERE id = %(n)s * 17 % 300",
                    "UPDATE t SET id = id + 10000 WHERE id = %(n)s * 31 % 300",
                    "UPDATE t SET id = id - 10000 WHERE id = 10000 + (%(n)s - 5) * 31 % 300"
                    " AND NOT EXISTS (SELECT 1 FROM t o WHERE o.id = t.id - 10000)",
                    "INSERT INTO t VALUES (%(n)s * 7 % 300, %(n)s, 'new') ON CONFLICT DO NOTHING",
                ):
                    connection.execute(
                        statement.replace("% 1", "%% 1").replace("% 300", "%% 300"), {"n": n}
                    )
    except BaseException as error:
        errors.append(error)


def test_writers_at_work_while_it_reads(each_database: str) -> None:
    sql(
        each_database,
        "CREATE TABLE t (id int PRIMARY KEY, n int, note text)",
        "INSERT INTO t SELECT n, 0, 'old' FROM generate_series(1, 300) n",
    )
    stop, errors = threading.Event(), list[BaseException]()
    writer = threading.Thread(target=churn, args=[each_database, stop, errors])

    async def scenario() -> list[Event]:
        async with running(each_database, snapshot_chunk=5) as run:
            writer.start()
            try:
                await run.until_backfilled()
            finally:
                stop.set()
                await asyncio.to_thread(writer.join)
            sql(each_database, "INSERT INTO t VALUES (-1, 0, 'end')")
            await run.until(lambda: run.events and run.events[-1].key == {"id": -1})
            return run.events

    events = asyncio.run(scenario())
    assert not errors
    rows = sql(each_database, "SELECT id, n, note FROM t")
    wanted = {(i,): {"id": i, "n": n, "note": note} for i, n, note in rows}
    assert fold(events) == wanted
    assert {"r", "u", "d", "c"} <= {event.op for event in events}
    assert len({event.id for event in events}) == len(events)


class Interrupted(PostgresSource):
    """Runs statements right after each read of a chunk, so that they fall into its window."""

    statements: tuple[str, ...] = ()

    async def chunk(
        self,
        table: TableSchema,
        after_key: tuple[str, ...] | None,
        limit: int,
        where: str | None,
    ) -> Chunk:
        chunk = await super().chunk(table, after_key, limit, where)
        statements, Interrupted.statements = Interrupted.statements, ()
        if statements:
            sql(self.config.dsn.get_secret_value(), *statements)
        return chunk


def in_window(dsn: str, *statements: str) -> list[Event]:
    Interrupted.statements = statements

    async def scenario() -> list[Event]:
        async with running(dsn, source=Interrupted, snapshot_chunk=50) as run:
            await run.until_backfilled()
            sql(dsn, "INSERT INTO t (id) VALUES (-1)")
            await run.until(lambda: run.events and run.events[-1].key == {"id": -1})
            return [event for event in run.events if event.key != {"id": -1}]

    return asyncio.run(scenario())


BIG = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) i)"
WIDE = (
    "CREATE TABLE t (id int PRIMARY KEY, n int, big text)",
    f"INSERT INTO t SELECT i, 0, {BIG} FROM generate_series(1, 5) i",
)


def check_against_select(dsn: str, events: list[Event]) -> None:
    rows = sql(dsn, "SELECT id, n, big FROM t WHERE id <> -1")
    assert fold(events) == {(i,): {"id": i, "n": n, "big": big} for i, n, big in rows}


@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE t SET n = 1 WHERE id = 2"],
        ["UPDATE t SET n = 1 WHERE id = 2", "UPDATE t SET n = 2, big = 'short' WHERE id = 2"],
        ["UPDATE t SET big = 'short' WHERE id = 2", "UPDATE t SET n = 2 WHERE id = 2"],
        ["DELETE FROM t WHERE id = 2"],
        ["DELETE FROM t WHERE id = 2", f"INSERT INTO t VALUES (2, 9, {BIG})"],
        ["UPDATE t SET n = 1 WHERE id = 2", "DELETE FROM t WHERE id = 2"],
        ["TRUNCATE t"],
        ["TRUNCATE t", "INSERT INTO t VALUES (2, 3, 'new')"],
        ["UPDATE t SET id = 99, big = 'x' WHERE id = 2"],
    ],
)
def test_changes_in_the_window(database: str, statements: list[str]) -> None:
    sql(database, *WIDE)
    check_against_select(database, in_window(database, *statements))


@pytest.mark.parametrize("key", [99, 0])
def test_a_key_change_in_the_window_keeps_the_toast(database: str, key: int) -> None:
    """The row is in the chunk under its old key alone, and the event has no TOAST value."""
    sql(database, *WIDE)
    check_against_select(database, in_window(database, f"UPDATE t SET id = {key} WHERE id = 2"))


def test_a_table_that_is_dropped_in_the_window(database: str) -> None:
    sql(database, *WIDE, "CREATE TABLE u (id int PRIMARY KEY)", "INSERT INTO u VALUES (1)")
    events = in_window(database, "DROP TABLE u")
    assert len([event for event in events if event.table.name == "t"]) == 5


def test_a_table_that_is_rewritten_while_a_chunk_waits_for_it(database: str) -> None:
    """To a snapshot from before, a rewritten table looks empty."""
    sql(database, *WIDE)

    async def scenario() -> list[Event]:
        Held.go = asyncio.Event()
        async with running(database, source=Held) as run:
            await run.until(lambda: run.pipeline.stats.position)
            with psycopg.connect(database) as other:
                other.execute("ALTER TABLE t ALTER n TYPE bigint")
                Held.go.set()
                waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 't'::regclass"
                await run.until(lambda: sql(database, waits))
            await run.until_backfilled()
            await run.until_events(5)
        return run.events

    assert len(asyncio.run(scenario())) == 5


class Late(PostgresSource):
    """Its stream comes late: what is written before must be in the backfill."""

    read = 0

    async def chunk(
        self,
        table: TableSchema,
        after_key: tuple[str, ...] | None,
        limit: int,
        where: str | None,
    ) -> Chunk:
        chunk = await super().chunk(table, after_key, limit, where)
        self.read += 1
        return chunk

    async def stream(self, after: Position | None) -> AsyncGenerator[Batch, None]:
        for _ in range(50):
            if self.read:
                break
            await asyncio.sleep(0.01)
        sql(self.config.dsn.get_secret_value(), "INSERT INTO t VALUES (2)")
        async for batch in super().stream(after):
            yield batch


def test_nothing_falls_between_backfill_and_stream(database: str) -> None:
    sql(database, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    assert keys_of(delivered_once(database, source=Late)) == [(1,), (2,)]


def test_what_is_streamed_before_it_is_visible(database: str) -> None:
    """A commit that waits for a standby is in the log already, but no read shows it."""
    sql(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, n int)",
        "INSERT INTO t SELECT n, 0 FROM generate_series(1, 3) n",
    )

    async def scenario() -> list[Event]:
        Held.go = asyncio.Event()
        async with running(database, source=Held) as run:
            await run.until(lambda: run.pipeline.stats.position)
            sql(
                database,
                "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
                "SELECT pg_reload_conf()",
            )
            update = asyncio.create_task(
                asyncio.to_thread(sql, database, "UPDATE t SET n = 1 WHERE id = 2")
            )
            try:
                await run.until_events(1)
                assert sql(database, "SELECT n FROM t WHERE id = 2") == [(0,)]
                Held.go.set()
                await run.until(lambda: Held.asked)
                for _ in range(20):
                    await asyncio.sleep(0.01)
                assert len(run.events) == 1
            finally:
                Held.go.set()
                sql(
                    database,
                    "ALTER SYSTEM RESET synchronous_standby_names",
                    "SELECT pg_reload_conf()",
                )
                await update
            await run.until_backfilled()
            return run.events

    events = asyncio.run(scenario())
    assert {key: row["n"] for key, row in fold(events).items()} == {(1,): 0, (2,): 1, (3,): 0}


class Held(PostgresSource):
    """Reads no chunk before it may."""

    go: asyncio.Event
    asked = False

    async def chunk(
        self,
        table: TableSchema,
        after_key: tuple[str, ...] | None,
        limit: int,
        where: str | None,
    ) -> Chunk:
        await self.go.wait()
        Held.asked = True
        return await super().chunk(table, after_key, limit, where)


def test_row_security_is_no_silent_filter(database: str) -> None:
    sql(database, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    name = database.rsplit("/", 1)[1]
    sql(
        database,
        f"CREATE ROLE {name} LOGIN REPLICATION",
        f"GRANT SELECT ON t TO {name}",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE PUBLICATION test FOR TABLE t",
    )
    try:
        with pytest.raises(ConfigError, match="row-level security"):
            delivered_once(database.replace("postgres@", f"{name}@"))
    finally:
        sql(database, f"DROP OWNED BY {name}", f"DROP ROLE {name}")
