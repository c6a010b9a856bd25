"""Inserts, updates, deletes, truncates: what each replica identity lets an event say."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipelines import images, in_transaction, running, sql
from tailrace.event import Event

BIG = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) i)"


async def changes(dsn: str, count: int, *statements: str) -> list[Event]:
    async with running(dsn, snapshot="never") as run:
        await run.until(lambda: run.pipeline.stats.position)
        sql(dsn, *statements)
        return await run.until_events(count)


def play(dsn: str, count: int, *statements: str) -> list[Event]:
    events = asyncio.run(changes(dsn, count, *statements))
    assert len(events) == count
    for event in events:
        agree(event)
    return events


def agree(event: Event) -> None:
    """Properties and JSON tell the same."""
    told = images(event)
    for member in ("key", "before", "after"):
        row = getattr(event, member)
        assert told[member] == (None if row is None else dict(row))
    assert told["unavailable"] == list(event.unavailable)


def summary(event: Event) -> tuple[Any, ...]:
    return event.op, event.key, event.before, event.after, event.unavailable


STATEMENTS = (
    "INSERT INTO t VALUES (1, 'a', 10)",
    "UPDATE t SET n = 11 WHERE id = 1",
    "UPDATE t SET id = 2 WHERE id = 1",
    "DELETE FROM t WHERE id = 2",
)
ROWS: list[dict[str, Any]] = [
    {"id": 1, "code": "a", "n": 10},
    {"id": 1, "code": "a", "n": 11},
    {"id": 2, "code": "a", "n": 11},
]
TABLE = "CREATE TABLE t (id int PRIMARY KEY, code text UNIQUE NOT NULL, n int)"


def test_p13_p15_default_identity(each_database: str) -> None:
    sql(each_database, TABLE)
    first, second, third = ROWS
    assert [summary(event) for event in play(each_database, 4, *STATEMENTS)] == [
        ("c", {"id": 1}, None, first, ()),
        ("u", {"id": 1}, None, second, ()),
        ("u", {"id": 2}, {"id": 1}, third, ()),
        ("d", {"id": 2}, {"id": 2}, None, ("code", "n")),
    ]


def test_p13_p15_full_identity(each_database: str) -> None:
    sql(each_database, TABLE, "ALTER TABLE t REPLICA IDENTITY FULL")
    first, second, third = ROWS
    assert [summary(event) for event in play(each_database, 4, *STATEMENTS)] == [
        ("c", {"id": 1}, None, first, ()),
        ("u", {"id": 1}, first, second, ()),
        ("u", {"id": 2}, second, third, ()),
        ("d", {"id": 2}, third, None, ()),
    ]


def test_p13_p15_index_identity(database: str) -> None:
    sql(database, TABLE, "ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key")
    first, second, third = ROWS
    events = play(database, 5, *STATEMENTS[:3], "UPDATE t SET code = 'b'", "DELETE FROM t")
    assert [summary(event) for event in events] == [
        ("c", {"code": "a"}, None, first, ()),
        ("u", {"code": "a"}, None, second, ()),
        ("u", {"code": "a"}, None, third, ()),
        ("u", {"code": "b"}, {"code": "a"}, {**third, "code": "b"}, ()),
        ("d", {"code": "b"}, {"code": "b"}, None, ("id", "n")),
    ]


def test_p13_nothing_identity_and_no_key(database: str) -> None:
    sql(database, TABLE, "ALTER TABLE t REPLICA IDENTITY NOTHING", "CREATE TABLE bare (n int)")
    inserted, bare = play(database, 2, STATEMENTS[0], "INSERT INTO bare VALUES (5)")
    assert summary(inserted) == ("c", {"id": 1}, None, ROWS[0], ())
    assert summary(bare) == ("c", None, None, {"n": 5}, ())


def test_composite_key_in_its_own_order(database: str) -> None:
    sql(database, "CREATE TABLE t (a int, b text, n int, PRIMARY KEY (b, a))")
    events = play(database, 2, "INSERT INTO t VALUES (1, 'x', 0)", "UPDATE t SET a = 2 WHERE a = 1")
    assert [list((event.key or {}).items()) for event in events] == [
        [("b", "x"), ("a", 1)],
        [("b", "x"), ("a", 2)],
    ]
    assert events[1].before == {"b": "x", "a": 1}


def test_p14_unchanged_toast_is_absent_and_named(each_database: str) -> None:
    sql(each_database, "CREATE TABLE t (id int PRIMARY KEY, big text, n int, note text)")
    _, update, key = play(
        each_database,
        3,
        f"INSERT INTO t VALUES (1, {BIG}, 1, NULL)",
        "UPDATE t SET n = 2",
        "UPDATE t SET id = 7",
    )
    assert summary(update) == ("u", {"id": 1}, None, {"id": 1, "n": 2, "note": None}, ("big",))
    after = {"id": 7, "n": 2, "note": None}
    assert summary(key) == ("u", {"id": 7}, {"id": 1}, after, ("big",))


def test_p14_unchanged_toast_comes_from_the_full_old_row(each_database: str) -> None:
    sql(
        each_database,
        "CREATE TABLE t (id int PRIMARY KEY, big text, n int)",
        "ALTER TABLE t REPLICA IDENTITY FULL",
    )
    insert = f"INSERT INTO t VALUES (1, {BIG}, 1)"
    first, update, delete = play(each_database, 3, insert, "UPDATE t SET n = 2", "DELETE FROM t")
    assert first.after
    assert len(first.after["big"]) == 9600
    changed = {**first.after, "n": 2}
    assert summary(update) == ("u", {"id": 1}, first.after, changed, ())
    assert list(update.after or {}) == ["id", "big", "n"]
    assert summary(delete) == ("d", {"id": 1}, changed, None, ())


def test_p14_p15_a_key_that_is_toasted_stays_in_the_event(each_database: str) -> None:
    """The new row lacks the key then; the old tuple, which is sent for that reason, has it."""
    sql(
        each_database,
        "CREATE TABLE t (k text PRIMARY KEY, n int)",
        "ALTER TABLE t ALTER k SET STORAGE EXTERNAL",
    )
    key = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 75) i)"
    insert, update = play(
        each_database, 2, f"INSERT INTO t VALUES ({key}, 1)", "UPDATE t SET n = 2"
    )
    assert insert.key
    assert update.key == insert.key
    assert update.after == {**insert.key, "n": 2}
    assert update.unavailable == ()


def test_truncate_is_one_event_a_table(each_database: str) -> None:
    sql(each_database, TABLE, "CREATE TABLE u (id int PRIMARY KEY)", "INSERT INTO u VALUES (1)")
    events = play(each_database, 3, "TRUNCATE u, t", "INSERT INTO u VALUES (2)")
    assert {event.table.name for event in events[:2]} == {"t", "u"}
    assert [event.op for event in events] == ["t", "t", "c"]
    assert summary(events[0]) == ("t", None, None, None, ())
    assert len({event.id for event in events}) == 3


def test_columns_change_between_transactions(each_database: str) -> None:
    sql(each_database, TABLE)
    events = play(
        each_database,
        5,
        "INSERT INTO t VALUES (1, 'a', 10)",
        "ALTER TABLE t ADD more text DEFAULT 'd'",
        "UPDATE t SET n = 11",
        "ALTER TABLE t RENAME n TO number",
        "UPDATE t SET more = 'e'",
        "ALTER TABLE t DROP code",
        "INSERT INTO t VALUES (2, 20, 'f')",
        "ALTER TABLE t ALTER number TYPE text",
        "INSERT INTO t VALUES (3, 'x', 'g')",
    )
    assert [event.after for event in events] == [
        {"id": 1, "code": "a", "n": 10},
        {"id": 1, "code": "a", "n": 11, "more": "d"},
        {"id": 1, "code": "a", "number": 11, "more": "e"},
        {"id": 2, "number": 20, "more": "f"},
        {"id": 3, "number": "x", "more": "g"},
    ]
    assert len({event.table.fingerprint for event in events}) == 5


def test_columns_change_within_a_transaction(each_database: str) -> None:
    sql(each_database, TABLE)

    async def scenario() -> list[Event]:
        async with running(each_database, snapshot="never") as run:
            await run.until(lambda: run.pipeline.stats.position)
            in_transaction(
                each_database,
                "INSERT INTO t VALUES (1, 'a', 10)",
                "ALTER TABLE t DROP n, ADD m text",
                "INSERT INTO t VALUES (2, 'b', 'm')",
                "SAVEPOINT s",
                "INSERT INTO t VALUES (3, 'c', 'gone')",
                "ROLLBACK TO s",
                "DROP TABLE t",
                TABLE,
                "INSERT INTO t VALUES (4, 'd', 40)",
            )
            return await run.until_events(3)

    events = asyncio.run(scenario())
    assert [event.after for event in events] == [
        {"id": 1, "code": "a", "n": 10},
        {"id": 2, "code": "b", "m": "m"},
        {"id": 4, "code": "d", "n": 40},
    ]


def test_the_old_rows_are_read_with_their_own_columns(database: str) -> None:
    """Events kept until after the change still decode as they were written."""
    sql(database, TABLE)
    old, new = play(
        database,
        2,
        "INSERT INTO t VALUES (1, 'a', 10)",
        "ALTER TABLE t DROP code",
        "INSERT INTO t VALUES (2, 20)",
    )
    assert [column.name for column in old.table.columns] == ["id", "code", "n"]
    assert [column.name for column in new.table.columns] == ["id", "n"]


AWKWARD = [
    "a.b c",
    'qu"ote',
    "it's",
    "{brace}",
    "{{0!r}}",
    "back\\slash\\n",
    "\U0001f980é",
    "line\nbreak\t\x01",
    "%s%(x)s",
    "é" * 31 + "x",
    "x" * 63,
    "select",
]


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_awkward_names(database: str, identity: str) -> None:
    """The decoder generates code from names; none of them may matter."""
    quoted = ['"' + name.replace('"', '""') + '"' for name in AWKWARD]
    columns = ", ".join(f"{name} int" for name in quoted)
    values = ", ".join(str(n) for n in range(len(AWKWARD)))
    statements = ['CREATE SCHEMA "s.{x} \'\\"']
    for name in quoted:
        table = f'"s.{{x}} \'\\".{name}'
        statements += [
            f"CREATE TABLE {table} ({columns}, PRIMARY KEY ({quoted[0]}, {quoted[6]}))",
            f"ALTER TABLE {table} REPLICA IDENTITY {identity}",
            f"INSERT INTO {table} VALUES ({values})",
        ]
    sql(database, *statements)
    changes = [
        statement
        for name in quoted
        for statement in (
            f'UPDATE "s.{{x}} \'\\".{name} SET {quoted[1]} = -1',
            f'DELETE FROM "s.{{x}} \'\\".{name}',
        )
    ]
    events = asyncio.run(with_backfill(database, 3 * len(AWKWARD), changes))
    row = {name: n for n, name in enumerate(AWKWARD)}
    key = {AWKWARD[0]: 0, AWKWARD[6]: 6}
    for name in AWKWARD:
        own = [event for event in events if event.table.name == name]
        assert [event.op for event in own] == ["r", "u", "d"]
        assert [event.after for event in own] == [row, {**row, AWKWARD[1]: -1}, None]
        assert [event.key for event in own] == [key, key, key]
        for event in own:
            agree(event)


async def with_backfill(dsn: str, count: int, changes: list[str]) -> list[Event]:
    async with running(dsn) as run:
        await run.until_backfilled()
        sql(dsn, *changes)
        return await run.until_events(count)


def test_many_columns(database: str) -> None:
    columns = ", ".join(f"c{n} int" for n in range(1500))
    sql(database, f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
    [event] = play(database, 1, "INSERT INTO t (id, c1499) VALUES (1, 5)")
    assert event.after
    assert len(event.after) == 1501
    assert event.after["c1499"] == 5


def test_a_table_without_columns_is_no_harm(database: str) -> None:
    sql(database, TABLE, "CREATE TABLE nothing ()")
    events = play(database, 2, "INSERT INTO nothing DEFAULT VALUES", STATEMENTS[0])
    assert summary(events[0]) == ("c", None, None, {}, ())
