"""Definitions that change in and between transactions (P13, P16 to P19)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from pipelines import sql
from sources import events_of, opened, read, started, streamed
from tailrace.event import Event

T = "CREATE TABLE t (id int PRIMARY KEY, n int)"
ROW = "INSERT INTO t VALUES"


def told(events: Sequence[Event]) -> list[tuple[str, Any]]:
    return [(event.op, event.after or event.before) for event in events]


def test_p13_identity_changed_in_mid_stream(each_database: str) -> None:
    sql(
        each_database, T, "CREATE UNIQUE INDEX other ON t (n)", "ALTER TABLE t ALTER n SET NOT NULL"
    )
    update = "UPDATE t SET n = n + 1"
    events = streamed(
        each_database,
        f"{ROW} (1, 1)",
        (update, "ALTER TABLE t REPLICA IDENTITY FULL", update, update),
        "ALTER TABLE t REPLICA IDENTITY USING INDEX other",
        update,
        ("ALTER TABLE t REPLICA IDENTITY NOTHING", f"{ROW} (2, 20)"),
        "ALTER TABLE t REPLICA IDENTITY DEFAULT",
        "DELETE FROM t WHERE id = 1",
    )
    assert [(event.op, event.key, event.before) for event in events] == [
        ("c", {"id": 1}, None),
        ("u", {"id": 1}, None),
        ("u", {"id": 1}, {"id": 1, "n": 2}),
        ("u", {"id": 1}, {"id": 1, "n": 3}),
        ("u", {"n": 5}, {"n": 4}),
        ("c", {"id": 2}, None),
        ("d", {"id": 1}, {"id": 1}),
    ]


def test_p13_another_primary_key_with_full_identity(each_database: str) -> None:
    """The log does not say which columns of a full row are the key; the catalog does."""
    sql(each_database, T, "ALTER TABLE t REPLICA IDENTITY FULL")

    async def scenario() -> list[Event]:
        async with opened(each_database) as source:
            at = await started(source)
            events: list[Event] = []
            for n, change in enumerate(("ALTER TABLE t DROP CONSTRAINT t_pkey", "SELECT 1")):
                sql(each_database, f"{ROW} ({n}, {n})")
                batches = await read(source, at)
                events += events_of(batches)
                at = batches[-1].position
                sql(each_database, change, "ALTER TABLE t ADD PRIMARY KEY (n)") if n == 0 else None
            return events

    assert [event.key for event in asyncio.run(scenario())] == [{"id": 0}, {"n": 1}]


def test_p16_columns_change_in_the_middle_of_a_transaction(each_database: str) -> None:
    sql(each_database, T, "ALTER TABLE t REPLICA IDENTITY FULL", f"{ROW} (0, 0)")
    events = streamed(
        each_database,
        (
            f"{ROW} (1, 1)",
            "ALTER TABLE t ADD added text NOT NULL DEFAULT 'd'",
            "UPDATE t SET n = 10 WHERE id = 0",
            "ALTER TABLE t RENAME n TO m",
            f"{ROW} (2, 2, 'x')",
            "ALTER TABLE t ALTER m TYPE text",
            f"{ROW} (3, 'three', 'y')",
            "ALTER TABLE t DROP m",
            f"{ROW} (4, 'z')",
            "SAVEPOINT s",
            "ALTER TABLE t ADD gone int",
            f"{ROW} (5, 'rolled back', 1)",
            "ROLLBACK TO s",
            f"{ROW} (6, 'w')",
        ),
    )
    assert [event.after for event in events] == [
        {"id": 1, "n": 1},
        {"id": 0, "n": 10, "added": "d"},
        {"id": 2, "m": 2, "added": "x"},
        {"id": 3, "m": "three", "added": "y"},
        {"id": 4, "added": "z"},
        {"id": 6, "added": "w"},
    ]
    assert events[1].before == {"id": 0, "n": 0, "added": "d"}


def test_p17_the_default_of_a_new_column_with_full_identity(each_database: str) -> None:
    """Rows from before have the default though it is not stored in them."""
    sql(each_database, T, "ALTER TABLE t REPLICA IDENTITY FULL", f"{ROW} (1, 1), (2, 2)")
    events = streamed(
        each_database,
        "ALTER TABLE t ADD a int DEFAULT 7, ADD b text DEFAULT 'x', ADD c int",
        "UPDATE t SET n = 5 WHERE id = 1",
        "DELETE FROM t WHERE id = 2",
    )
    old = {"a": 7, "b": "x", "c": None}
    assert [(event.before, event.after) for event in events] == [
        ({"id": 1, "n": 1, **old}, {"id": 1, "n": 5, **old}),
        ({"id": 2, "n": 2, **old}, None),
    ]


def test_p18_what_is_gone_when_its_changes_are_read(each_database: str) -> None:
    """The catalog of today knows neither the table nor its types; the log has the rows."""
    sql(
        each_database,
        "CREATE TYPE mood AS ENUM ('fine')",
        "CREATE DOMAIN small AS int",
        "CREATE TABLE t (b int, a int, m mood, s small, ms mood[], PRIMARY KEY (a, b))",
        "CREATE TABLE u (id int PRIMARY KEY, m mood)",
        "ALTER TABLE u REPLICA IDENTITY FULL",
    )
    events = streamed(
        each_database,
        "INSERT INTO t VALUES (1, 2, 'fine', 3, '{fine}')",
        "INSERT INTO u VALUES (1, 'fine')",
        "UPDATE t SET b = 5",
        "UPDATE u SET m = NULL",
        "TRUNCATE t",
        "DROP TABLE t",
        "ALTER TABLE u DROP m",
        "DROP TABLE u",
        "DROP TYPE mood",
        "DROP DOMAIN small",
    )
    row = {"b": 1, "a": 2, "m": "fine", "s": "3", "ms": "{fine}"}
    assert told(events) == [
        ("c", row),
        ("c", {"id": 1, "m": "fine"}),
        ("u", {**row, "b": 5}),
        ("u", {"id": 1, "m": None}),
        ("t", None),
    ]
    assert [event.key for event in events[:4]] == [{"b": 1, "a": 2}, None, {"b": 5, "a": 2}, None]
    assert events[2].before == {"b": 1, "a": 2}
    assert events[3].before == {"id": 1, "m": "fine"}


def test_p18_a_table_that_was_known_keeps_its_key_when_it_is_gone(each_database: str) -> None:
    sql(each_database, "CREATE TABLE t (b int, a int, PRIMARY KEY (a, b))")
    sql(each_database, "ALTER TABLE t REPLICA IDENTITY FULL")

    async def scenario() -> None:
        async with opened(each_database) as source:
            start = await started(source)
            sql(each_database, f"{ROW} (1, 2)")
            first = events_of(await read(source, start))
            sql(each_database, "DROP TABLE t")
            assert [e.key for e in events_of(await read(source, start))] == [first[0].key]
            assert list(first[0].key or {}) == ["a", "b"]

    asyncio.run(scenario())


def test_p18_dropped_and_made_again_under_the_same_name(each_database: str) -> None:
    sql(each_database, T)
    events = streamed(
        each_database,
        f"{ROW} (1, 1)",
        ("DROP TABLE t", "CREATE TABLE t (code text PRIMARY KEY)", f"{ROW} ('in')"),
        f"{ROW} ('out')",
        "DROP TABLE t",
        T,
        f"{ROW} (2, 2)",
    )
    assert [event.after for event in events] == [
        {"id": 1, "n": 1},
        {"code": "in"},
        {"code": "out"},
        {"id": 2, "n": 2},
    ]


def test_p18_moved_and_renamed_into_and_out_of_what_is_captured(each_database: str) -> None:
    sql(
        each_database,
        T,
        "CREATE SCHEMA s",
        "CREATE SCHEMA hidden",
        "CREATE PUBLICATION test FOR ALL TABLES",
    )
    events = streamed(
        each_database,
        f"{ROW} (1, 1)",
        "ALTER TABLE t SET SCHEMA s",
        "INSERT INTO s.t VALUES (2, 2)",
        ("INSERT INTO s.t VALUES (3, 3)", "ALTER TABLE s.t SET SCHEMA hidden"),
        "INSERT INTO hidden.t VALUES (4, 4)",
        (
            "ALTER TABLE hidden.t RENAME TO u",
            "ALTER TABLE hidden.u SET SCHEMA public",
            "INSERT INTO u VALUES (5, 5)",
        ),
        "ALTER TABLE u RENAME TO secret",
        "INSERT INTO secret VALUES (6, 6)",
        tables=("*.*", "!public.secret", "!hidden.*"),
    )
    assert [(event.table.label, (event.after or {})["id"]) for event in events] == [
        ("public.t", 1),
        ("s.t", 2),
        ("s.t", 3),
        ("public.u", 5),
    ]


def test_p19_what_gives_no_events(each_database: str) -> None:
    sql(
        each_database,
        T,
        f"{ROW} (1, 1)",
        "CREATE MATERIALIZED VIEW v AS SELECT id FROM t",
        "CREATE UNIQUE INDEX ON v (id)",
        "CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY)",
        "CREATE SEQUENCE s",
    )

    async def scenario() -> list[Event]:
        async with opened(each_database) as source:
            start = await started(source)
            sql(
                each_database,
                "VACUUM FULL t",
                "CLUSTER t USING t_pkey",
                "ALTER TABLE t ALTER n TYPE bigint",
                "ALTER TABLE t SET UNLOGGED",
                f"{ROW} (2, 2)",
                "ALTER TABLE t SET LOGGED",
                "REFRESH MATERIALIZED VIEW v",
                "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
                "INSERT INTO unlogged VALUES (1)",
                "CREATE TEMPORARY TABLE temporary AS SELECT 1",
                "SELECT nextval('s')",
                "SELECT lo_create(4711)",
                f"{ROW} (3, 3)",
            )
            return events_of(await read(source, start))

    assert told(asyncio.run(scenario())) == [("c", {"id": 3, "n": 3})]


@pytest.mark.parametrize("how", ["CREATE TABLE u AS SELECT * FROM t", "SELECT * INTO u FROM t"])
def test_tables_made_with_their_rows(database: str, how: str) -> None:
    sql(database, T, f"{ROW} (1, 1)")
    assert told(streamed(database, how)) == [("c", {"id": 1, "n": 1})]
