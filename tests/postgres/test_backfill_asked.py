"""What is read: chosen tables, conditions, tables without a key, and what is asked for later."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from pipelines import Notes, Run, delivered_once, running, sql
from tailrace.checkpoint import BackfillRequest
from tailrace.connector import Chunk, Reading
from tailrace.errors import ConfigError, TransientError
from tailrace.event import Event, Transaction
from tailrace.schema import TableSchema
from tailrace_postgres.source import PostgresSource

TABLE = "CREATE TABLE t (id int PRIMARY KEY, n int)"
ROWS = "INSERT INTO t SELECT n, n % 10 FROM generate_series(1, 100) n"


def ids(events: Sequence[Event], table: str = "t", op: str = "r") -> list[int]:
    return [(e.after or {})["id"] for e in events if e.table.name == table and e.op == op]


def refused(dsn: str, **settings: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        delivered_once(dsn, **settings)
    assert caught.value.exit_status == 2
    return caught.value


# -- which tables, which rows


def test_tables_and_conditions_of_the_configuration(database: str) -> None:
    sql(database, TABLE, ROWS, "CREATE TABLE u (id int PRIMARY KEY)", "INSERT INTO u VALUES (1)")
    sql(database, "CREATE TABLE v (id int PRIMARY KEY)", "INSERT INTO v VALUES (1)")
    events = delivered_once(
        database,
        snapshot_tables=("public.*", "!public.v"),
        snapshot_where={"public.t": "n = 3 OR id = 1 -- and a comment"},
        snapshot_chunk=3,
    )
    assert ids(events) == [1, *range(3, 100, 10)]
    assert ids(events, "u") == [1]
    assert ids(events, "v") == []


def test_what_the_settings_name_must_be_there(database: str) -> None:
    sql(database, TABLE)
    assert "no captured table matches public.x" in str(
        refused(database, snapshot_tables=("public.x",))
    )
    assert "snapshot.where.public.x: no such table" in str(
        refused(database, snapshot_where={"public.x": "true"})
    )


@pytest.mark.parametrize("where", ["nope = 1", "n = 'x'", "n =", "true); DROP TABLE t; --", "n"])
def test_a_condition_that_is_none(database: str, where: str) -> None:
    sql(database, TABLE, ROWS)
    said = str(refused(database, snapshot_where={"public.t": where}))
    assert "snapshot.where.public.t" in said
    assert len(sql(database, "SELECT 1 FROM t")) == 100


def test_the_estimate_is_of_the_condition(database: str) -> None:
    sql(database, TABLE, ROWS, "ANALYZE t")

    async def scenario() -> dict[str, int]:
        where = {"public.t": "n = 3"}
        async with running(database, snapshot_where=where) as run:
            await run.until_backfilled()
            return run.pipeline.stats.estimates

    assert asyncio.run(scenario()) == {"public.t": 10}


def test_row_level_security_does_not_hide_rows(database: str) -> None:
    role = f"secured_{database[-8:]}"
    sql(
        database,
        TABLE,
        ROWS,
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY few ON t USING (n = 3)",
        f"CREATE ROLE {role} LOGIN REPLICATION",
        f"GRANT SELECT ON t TO {role}",
        "CREATE PUBLICATION test FOR TABLE t",
    )
    try:
        dsn, store = database.replace("postgres@", f"{role}@"), Notes()
        error = refused(dsn, store=store)
        assert "public.t" in str(error)
        assert "row-level security" in str(error)
        assert "BYPASSRLS" in (error.mend or "")
        sql(database, f"ALTER ROLE {role} BYPASSRLS")
        assert len(ids(delivered_once(dsn, store))) == 100
    finally:
        sql(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


# -- tables without a key

HEAP = "CREATE TABLE heap (writer int, n int); ALTER TABLE heap REPLICA IDENTITY FULL"


def bag(events: Sequence[Event], table: str = "heap") -> Counter[tuple[Any, ...]]:
    """The rows that a consumer has who applies the events to a table that has no key."""
    rows: Counter[tuple[Any, ...]] = Counter()
    for event in events:
        if event.table.name != table:
            continue
        if event.op == "t":
            rows.clear()
        if event.before:
            rows[tuple(event.before.values())] -= 1
        if event.after:
            rows[tuple(event.after.values())] += 1
        assert not [row for row, count in rows.items() if count < 0], "taken before it was given"
    return +rows


def truth(dsn: str, table: str = "heap") -> Counter[tuple[Any, ...]]:
    return Counter(sql(dsn, f"SELECT * FROM {table}"))


def test_a_table_without_a_key_is_read_whole(each_database: str) -> None:
    """Rows that are alike are events of their own; so are tables with a key beside it."""
    sql(
        each_database,
        *HEAP.split("; "),
        TABLE,
        ROWS,
        "INSERT INTO heap SELECT 0, n % 3 FROM generate_series(1, 3000) n",
        "CREATE TABLE none (writer int)",
    )
    events = delivered_once(each_database, snapshot_chunk=500)
    assert bag(events) == truth(each_database)
    assert len({event.id for event in events}) == len(events) == 3_100
    first = [event.table.name for event in events]
    assert first.index("t") == 3_000, "tables without a key come first"


def test_a_condition_on_a_table_without_a_key(database: str) -> None:
    sql(database, *HEAP.split("; "), "INSERT INTO heap SELECT 0, generate_series(1, 100)")
    events = delivered_once(database, snapshot_where={"public.heap": "n > 90"})
    assert sorted(n for _, n in bag(events)) == list(range(91, 101))


class Churn(threading.Thread):
    """Inserts, updates, deletes and now and then truncates rows of its own."""

    def __init__(self, dsn: str, writer: int) -> None:
        super().__init__(daemon=True)
        self.dsn = dsn
        self.writer = writer
        self.stopped = threading.Event()
        self.rounds = 0

    def run(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while not self.stopped.is_set():
                self.rounds += 1
                n, mine = self.rounds, self.writer
                connection.execute("INSERT INTO heap VALUES (%s, %s), (%s, %s)", [mine, n, mine, n])
                connection.execute(
                    "UPDATE heap SET n = -n WHERE writer = %s AND n = %s", [mine, n - 3]
                )
                connection.execute(
                    "DELETE FROM heap WHERE writer = %s AND n = %s", [mine, -(n - 6)]
                )
                connection.execute("UPDATE heap SET n = n + 1 WHERE writer = 0 AND n = %s", [n * 7])


@asynccontextmanager
async def churning(dsn: str, writers: int = 2) -> AsyncGenerator[list[Churn], None]:
    churns = [Churn(dsn, number + 1) for number in range(writers)]
    for churn in churns:
        churn.start()
    try:
        yield churns
    finally:
        for churn in churns:
            churn.stopped.set()
        for churn in churns:
            await asyncio.to_thread(churn.join, 30)


async def settled(run: Run, dsn: str) -> None:
    """Everything that is committed now has been delivered."""
    sql(dsn, "INSERT INTO heap VALUES (-1, -1)")
    await run.until(lambda: any((e.after or {}).get("writer") == -1 for e in run.events[-50:]))


@pytest.mark.parametrize("broken", [False, True])
def test_rows_without_a_key_and_changes_add_up(database: str, broken: bool) -> None:
    """The first read is broken off in the middle, or not: what was delivered of it comes again."""
    sql(database, *HEAP.split("; "), "INSERT INTO heap SELECT 0, generate_series(1, 5000)")

    async def scenario() -> list[Event]:
        async with churning(database) as churns:
            source = BreaksOff if broken else PostgresSource
            async with running(database, source=source, snapshot_chunk=200) as run:
                await run.until_backfilled()
                more = churns[0].rounds + 20
                await run.until(lambda: churns[0].rounds > more)
                for churn in churns:
                    churn.stopped.set()
                    await asyncio.to_thread(churn.join, 30)
                await settled(run, database)
                return run.events

    events = asyncio.run(scenario())
    assert {"r", "c", "u", "d"} <= {event.op for event in events}
    if not broken:
        assert bag(events) == truth(database)
    distinct = {event.id: event for event in events}
    assert broken == (len(distinct) < len(events))
    assert truth(database).keys() <= bag(list(distinct.values())).keys()


class BreaksOff(PostgresSource):
    """Its first reading ends after one chunk, as if the connection were cut."""

    broken = False

    @asynccontextmanager
    async def reading(self, tables: Sequence[TableSchema]) -> AsyncGenerator[Reading, None]:
        async with super().reading(tables) as reading:
            yield reading if self.broken else Cut(reading)
            self.broken = True


class Cut(Reading):
    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def shows(self, transaction: Transaction) -> bool:
        return self._reading.shows(transaction)

    async def chunks(
        self, table: TableSchema, where: str | None, limit: int
    ) -> AsyncGenerator[Chunk, None]:
        async for chunk in self._reading.chunks(table, where, limit):
            yield chunk
            BreaksOff.broken = True
            raise TransientError("cut")


# -- what is asked for


def ask(store: Notes, table: str = "public.t", where: str | None = None, id: str = "a") -> None:
    asyncio.run(store.ask("test", BackfillRequest(id, table, where)))


def test_asked_while_it_stands_still(database: str) -> None:
    sql(database, TABLE, ROWS)
    store = Notes()
    first = delivered_once(database, store)
    ask(store, where="id > 90")
    again = delivered_once(database, store, snapshot="never")
    assert ids(again) == list(range(91, 101))
    assert not {e.id for e in first} & {e.id for e in again}, "it was asked for: new events"
    assert delivered_once(database, store) == []
    assert asyncio.run(store.asked("test")) == []


def test_asked_while_it_runs(each_database: str) -> None:
    """Twice for one table, and for one that is not there."""
    sql(each_database, TABLE, ROWS)
    store = Notes()

    async def scenario() -> list[Event]:
        async with running(each_database, store, snapshot_chunk=7) as run:
            await run.until_events(100)
            await run.until_backfilled()
            await store.ask("test", BackfillRequest("a", "public.t", "n = 1"))
            await store.ask("test", BackfillRequest("b", "public.t", "n = 2"))
            await store.ask("test", BackfillRequest("c", "public.nope"))
            await run.until_events(120)
            sql(each_database, "UPDATE t SET n = 11 WHERE id = 1")
            await run.until_events(121)
            while await store.asked("test"):
                await asyncio.sleep(0.05)
            return run.events[100:]

    events = asyncio.run(scenario())
    assert ids(events) == [*range(1, 100, 10), *range(2, 100, 10)]
    assert ids(events, op="u") == [1]


def test_a_request_survives_a_crash_in_its_middle(database: str) -> None:
    sql(database, TABLE, ROWS)
    store = Notes()
    delivered_once(database, store)
    ask(store)

    async def halfway() -> list[Event]:
        async with running(database, store, snapshot_chunk=7, grace=0.2) as run:
            await run.until_events(14)
        return run.events

    first = asyncio.run(halfway())
    assert 14 <= len(first) < 100
    second = delivered_once(database, store, snapshot_chunk=7)
    assert sorted(ids(first) + ids(second)) == list(range(1, 101))


def test_asked_for_a_table_without_a_key(database: str) -> None:
    sql(database, *HEAP.split("; "), "INSERT INTO heap SELECT 0, generate_series(1, 100)")
    store = Notes()
    delivered_once(database, store)
    sql(database, "INSERT INTO heap VALUES (1, 1)")
    ask(store, "public.heap")
    events = delivered_once(database, store)
    assert bag([event for event in events if event.op == "r"]) == truth(database)


def test_progress_is_in_the_checkpoint_before_its_rows(database: str) -> None:
    sql(database, TABLE, ROWS)
    store = Notes()
    delivered_once(database, store)
    ask(store, where="n = 1")
    before = len(store.saved)
    delivered_once(database, store)
    progress = [saved.tables["public.t"] for saved in store.saved[before:]]
    begun = next(n for n, each in enumerate(progress) if each.request == "a")
    assert (progress[begun].rows, progress[begun].where) == (0, "n = 1")
    assert [each.rows for each in progress[begun:]][-1] == 10
