"""``on_lost=resnapshot``: a position that is lost is a new beginning, with all rows in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from msgspec.structs import replace

from pipelines import Notes, confirmed, delivered_once, fold, running, sql
from tailrace.event import Event
from tailrace_demo.servers import Postgres

TABLE = "CREATE TABLE t (id int PRIMARY KEY, n int)"
ROWS = "INSERT INTO t SELECT n, 0 FROM generate_series(1, 50) n"
IN_THE_GAP = (
    "UPDATE t SET n = 1 WHERE id <= 10",
    "DELETE FROM t WHERE id = 11",
    "INSERT INTO t VALUES (51, 2)",
)
DROP = "SELECT pg_drop_replication_slot('test')"
MAKE = "SELECT pg_create_logical_replication_slot('test', 'pgoutput')"
MOVE = "SELECT pg_replication_slot_advance('test', pg_current_wal_insert_lsn())"

Loss = Callable[[str, Notes], None]


def dropped(dsn: str, store: Notes) -> None:
    sql(dsn, DROP, *IN_THE_GAP)


def made_again(dsn: str, store: Notes) -> None:
    sql(dsn, DROP, *IN_THE_GAP, MAKE)


def moved(dsn: str, store: Notes) -> None:
    sql(dsn, *IN_THE_GAP, MOVE)


def without_a_checkpoint(dsn: str, store: Notes) -> None:
    sql(dsn, *IN_THE_GAP)
    asyncio.run(store.delete("test"))


def of_another_cluster(dsn: str, store: Notes) -> None:
    sql(dsn, *IN_THE_GAP)
    saved = asyncio.run(store.load("test"))
    assert saved is not None
    asyncio.run(store.save("test", replace(saved, source="pg:1")))


@pytest.mark.parametrize(
    "lose", [dropped, made_again, moved, without_a_checkpoint, of_another_cluster]
)
def test_all_rows_come_again_and_changes_follow(database: str, lose: Loss) -> None:
    """Those too that changed while nobody was looking; the deleted one is not told."""
    sql(database, TABLE, ROWS)
    store = Notes()
    first = delivered_once(database, store)
    lose(database, store)
    again = delivered_once(database, store, on_lost="resnapshot")
    assert {event.op for event in again} == {"r"}
    assert not {event.id for event in first} & {event.id for event in again}
    assert rows(again) == truth(database)
    sql(database, "UPDATE t SET n = 7 WHERE id = 1")
    [update] = delivered_once(database, store)
    assert (update.op, update.after) == ("u", {"id": 1, "n": 7})


def rows(events: list[Event]) -> dict[int, int]:
    return {key[0]: row["n"] for key, row in fold(events).items()}


def truth(dsn: str) -> dict[int, int]:
    return dict(sql(dsn, "SELECT id, n FROM t"))


def test_dropped_while_it_runs(database: str) -> None:
    sql(database, TABLE, ROWS)

    async def scenario() -> list[Event]:
        async with running(database, on_lost="resnapshot") as run:
            await run.until_backfilled()
            await asyncio.to_thread(drop_at_work, database)
            sql(database, *IN_THE_GAP)
            await run.until(lambda: rows(run.events[50:]) == truth(database))
            sql(database, "INSERT INTO t VALUES (60, 6)")
            await run.until(lambda: 60 in rows(run.events))
            return run.events

    events = asyncio.run(scenario())
    assert len({event.id for event in events}) == len(events)


def drop_at_work(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        while True:
            connection.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                " WHERE slot_name = 'test'"
            )
            try:
                connection.execute(DROP.encode())
                return
            except psycopg.errors.ObjectInUse:
                continue


def test_invalidated_with_the_rows_that_changed_in_the_gap(embedded: Path) -> None:
    """P04: the server threw the WAL away that the slot needed."""
    settings = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    with Postgres(embedded, settings={**settings, "fsync": "off"}) as server:
        sql(server.dsn, TABLE, ROWS)
        store = Notes()
        delivered_once(server.dsn, store)
        sql(server.dsn, *IN_THE_GAP)
        for _ in range(4):
            sql(server.dsn, "SELECT pg_switch_wal()", "CREATE TABLE x ()", "DROP TABLE x")
        sql(server.dsn, "CHECKPOINT")
        assert sql(server.dsn, "SELECT wal_status FROM pg_replication_slots") == [("lost",)]
        events = delivered_once(server.dsn, store, on_lost="resnapshot")
        assert rows(events) == truth(server.dsn)
        assert sql(server.dsn, "SELECT wal_status FROM pg_replication_slots") != [("lost",)]


def test_a_crash_before_the_first_save_loses_nothing(database: str) -> None:
    """What is saved of the new beginning has no position, and no table that is done."""
    sql(database, TABLE, ROWS)
    store = Notes()
    delivered_once(database, store)
    dropped(database, store)
    delivered_once(database, store, on_lost="resnapshot")
    anew = store.claimed[-1]
    assert anew.position is None
    assert not any(table.done for table in anew.tables.values())
    crashed = Notes()
    asyncio.run(crashed.claim("test", replace(anew, epoch=0)))
    assert rows(delivered_once(database, crashed)) == truth(database)
    assert confirmed(database) > 0


def test_the_policy_is_kept_to(database: str) -> None:
    """A position that is not lost is gone on from."""
    sql(database, TABLE, ROWS)
    store = Notes()
    delivered_once(database, store)
    sql(database, *IN_THE_GAP)
    events = delivered_once(database, store, on_lost="resnapshot")
    assert [event.op for event in events] == ["u"] * 10 + ["d", "c"]
