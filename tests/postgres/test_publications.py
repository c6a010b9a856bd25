"""Publications made and changed by users: what they publish is what stream and backfill give."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from pipelines import Run, confirmed, delivered_once, running, sql
from sources import streamed
from tailrace.event import Event

TABLE = "CREATE TABLE t (id int PRIMARY KEY, a text, b int)"
OWN = {"publication": "mine"}


def told(events: Sequence[Event]) -> list[tuple[str, Any]]:
    return [(event.op, event.after or event.before) for event in events]


def both(dsn: str, *changes: str, **keys: Any) -> tuple[list[Event], list[Event]]:
    """What the backfill gives, and the events of changes after it."""

    async def scenario() -> tuple[list[Event], list[Event]]:
        async with running(dsn, keys={**OWN, **keys}) as run:
            await run.until_backfilled()
            read = len(run.events)
            sql(dsn, *changes)
            await passed(run, dsn)
            # The rows of a table that has come meanwhile may be read, too.
            return run.events[:read], [e for e in run.events[read:] if e.op != "r"]

    return asyncio.run(scenario())


async def passed(run: Run, dsn: str) -> None:
    """Wait until everything that is committed now is delivered and released."""
    [(now,)] = sql(dsn, "SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint")
    await run.until(lambda: confirmed(dsn) >= now)


def test_p12_column_list_and_row_filter_hold_for_both(each_database: str) -> None:
    sql(
        each_database,
        TABLE,
        "INSERT INTO t VALUES (1, 'seen', 1), (2, 'not', -1)",
        "CREATE PUBLICATION mine FOR TABLE t (id, b) WHERE (b > 0)",
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "ALTER TABLE t REPLICA IDENTITY DEFAULT",
        "ALTER PUBLICATION mine SET (publish = 'insert')",
    )
    read, streamed = both(each_database, "INSERT INTO t VALUES (3, 'seen', 3), (4, 'not', -3)")
    assert told(read) == [("r", {"id": 1, "b": 1})]
    assert told(streamed) == [("c", {"id": 3, "b": 3})]
    assert [event.key for event in read + streamed] == [{"id": 1}, {"id": 3}]
    assert read[0].table is streamed[0].table


def test_p12_a_row_that_enters_or_leaves_the_filter(each_database: str) -> None:
    sql(each_database, TABLE, "CREATE PUBLICATION mine FOR TABLE t WHERE (id > 10)")
    _, streamed = both(
        each_database,
        "INSERT INTO t VALUES (1, 'x', 0)",
        "UPDATE t SET id = 11",
        "UPDATE t SET id = 2",
    )
    assert [(event.op, event.key) for event in streamed] == [("c", {"id": 11}), ("d", {"id": 11})]


def test_p12_a_list_without_a_part_of_the_key(database: str) -> None:
    """Such a table has no key: reading on after a part of one would skip rows."""
    sql(
        database,
        "CREATE TABLE t (a int, b int, c int, PRIMARY KEY (a, b))",
        "CREATE PUBLICATION mine FOR TABLE t (a, c) WITH (publish = 'insert')",
    )

    async def scenario() -> None:
        async with running(database, snapshot="never", keys=OWN) as run:
            await run.streaming()
            [status] = await run.source.tables()  # type: ignore[attr-defined]
            assert status.table.key == ()
            assert [column.name for column in status.table.columns] == ["a", "c"]

    asyncio.run(scenario())


def test_p12_altered_while_streaming(each_database: str) -> None:
    sql(each_database, TABLE, "CREATE TABLE u (id int PRIMARY KEY)")
    sql(each_database, "CREATE PUBLICATION mine FOR TABLE t")

    events = streamed(
        each_database,
        "INSERT INTO t VALUES (1, 'a', 1)",
        "INSERT INTO u VALUES (1)",
        "ALTER PUBLICATION mine ADD TABLE u",
        "INSERT INTO u VALUES (2)",
        "ALTER PUBLICATION mine SET TABLE t (id, a), u WHERE (id > 3)",
        "INSERT INTO t VALUES (2, 'b', 2)",
        "INSERT INTO u VALUES (3)",
        "INSERT INTO u VALUES (4)",
        "ALTER PUBLICATION mine SET (publish = 'insert, delete')",
        "UPDATE t SET a = 'unseen'",
        "DELETE FROM t WHERE id = 1",
        "ALTER PUBLICATION mine DROP TABLE t",
        "INSERT INTO t VALUES (5, 'e', 5)",
        publication="mine",
    )
    assert told(events) == [
        ("c", {"id": 1, "a": "a", "b": 1}),
        ("c", {"id": 2}),
        ("c", {"id": 2, "a": "b"}),
        ("c", {"id": 4}),
        ("d", {"id": 1}),
    ]


def test_what_a_publication_leaves_out_is_said(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    sql(database, TABLE, "CREATE PUBLICATION mine FOR TABLE t WITH (publish = 'insert, update')")
    with caplog.at_level(logging.WARNING):
        delivered_once(database, keys=OWN)
    assert "publication 'mine' does not publish delete, truncate" in caplog.text
    assert "SET (publish = 'insert, update, delete, truncate');" in caplog.text


GENERATED = (
    "CREATE TABLE t (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED)"
)
INSERTED = "INSERT INTO t (id, n) VALUES"


def test_p25_generated_columns_are_in_neither(each_database: str) -> None:
    sql(each_database, GENERATED, f"{INSERTED} (1, 1)", "CREATE PUBLICATION mine FOR TABLE t")
    read, streamed = both(each_database, f"{INSERTED} (2, 2)")
    assert told(read) == [("r", {"id": 1, "n": 1})]
    assert told(streamed) == [("c", {"id": 2, "n": 2})]
    assert [column.name for column in streamed[0].table.columns] == ["id", "n"]


@pytest.mark.parametrize(
    "publication",
    ["FOR TABLE t WITH (publish_generated_columns = stored)", "FOR TABLE t (id, twice, n)"],
)
def test_p25_generated_columns_that_are_published_are_in_both(
    database: str, publication: str
) -> None:
    sql(database, GENERATED, f"{INSERTED} (1, 1)", f"CREATE PUBLICATION mine {publication}")
    read, streamed = both(database, f"{INSERTED} (2, 2)", "UPDATE t SET n = 3 WHERE id = 2")
    assert told(read) == [("r", {"id": 1, "n": 1, "twice": 2})]
    assert told(streamed) == [
        ("c", {"id": 2, "n": 2, "twice": 4}),
        ("u", {"id": 2, "n": 3, "twice": 6}),
    ]


@pytest.mark.parametrize(
    "what", ["TABLES IN SCHEMA s", "ALL TABLES", "TABLES IN SCHEMA s, TABLE t"]
)
def test_publications_of_schemas_and_of_everything(database: str, what: str) -> None:
    """Tables made later are in it by themselves; source.tables still chooses."""
    sql(database, "CREATE SCHEMA s", TABLE, "CREATE TABLE s.t (id int PRIMARY KEY)")
    sql(database, f"CREATE PUBLICATION mine FOR {what}", "INSERT INTO s.t VALUES (1)")
    read, streamed = both(
        database,
        "CREATE TABLE s.u (id int PRIMARY KEY)",
        "INSERT INTO s.u VALUES (7)",
        "CREATE TABLE s.other (id int PRIMARY KEY)",
        "INSERT INTO s.other VALUES (8)",
        tables=("s.*", "!s.other"),
    )
    assert [event.table.label for event in read] == ["s.t"]
    assert told(streamed) == [("c", {"id": 7})]


def test_a_publication_of_the_users_says_what_is_captured(each_database: str) -> None:
    sql(each_database, TABLE, "CREATE TABLE u (id int PRIMARY KEY)", "INSERT INTO u VALUES (1)")
    sql(each_database, "CREATE PUBLICATION mine FOR TABLE u")
    read, streamed = both(each_database, "INSERT INTO t VALUES (1)", "INSERT INTO u VALUES (2)")
    assert told(read + streamed) == [("r", {"id": 1}), ("c", {"id": 2})]
    assert published(each_database) == ["public.u"]


def published(dsn: str, name: str = "mine") -> list[str]:
    query = "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = %s"
    return sorted(label for (label,) in sql(dsn, query, values=[name]))
