"""Partitioned tables (P24): captured as their partitions (leaf) or as one table (root)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from pipelines import confirmed, fold, running, sql
from sources import opened, started, streamed
from tailrace.errors import ConfigError
from tailrace.event import Event
from tailrace_postgres.source import PostgresSource

TABLES = (
    "CREATE TABLE t (id int, region text, n int, PRIMARY KEY (region, id))"
    " PARTITION BY LIST (region)",
    "CREATE TABLE t_eu PARTITION OF t FOR VALUES IN ('eu')",
    "CREATE TABLE t_us (n int, region text NOT NULL, id int NOT NULL)",
    "ALTER TABLE t ATTACH PARTITION t_us FOR VALUES IN ('us')",
    "CREATE TABLE t_x PARTITION OF t FOR VALUES IN ('x') PARTITION BY RANGE (id)",
    "CREATE TABLE t_x1 PARTITION OF t_x FOR VALUES FROM (0) TO (100)",
)
ROOT = {"partitions": "root"}


def insert(*rows: str) -> str:
    return f"INSERT INTO t (id, region, n) VALUES {', '.join(rows)}"


CHANGES = (
    insert("(1, 'eu', 1)", "(2, 'us', 2)", "(3, 'x', 3)"),
    "UPDATE t SET n = 10 WHERE id = 1",
    "UPDATE t SET region = 'us' WHERE id = 1",
    "DELETE FROM t WHERE id = 3",
    "TRUNCATE t_eu",
    "TRUNCATE t",
)


def told(events: Sequence[Event]) -> list[tuple[str, str, Any]]:
    return [(event.table.name, event.op, event.key and event.key["id"]) for event in events]


def test_p24_leaf(each_database: str) -> None:
    sql(each_database, *TABLES)
    events = streamed(each_database, *CHANGES)
    assert told(events[:7]) == [
        ("t_eu", "c", 1),
        ("t_us", "c", 2),
        ("t_x1", "c", 3),
        ("t_eu", "u", 1),
        ("t_eu", "d", 1),
        ("t_us", "c", 1),
        ("t_x1", "d", 3),
    ]
    assert told(events[7:8]) == [("t_eu", "t", None)]
    assert sorted(told(events[8:])) == [(f"t_{leaf}", "t", None) for leaf in ("eu", "us", "x1")]


def test_p24_root(each_database: str) -> None:
    """A row that moves is deleted and created; what befalls one partition alone is not told."""
    sql(each_database, *TABLES)
    events = streamed(each_database, *CHANGES, **ROOT)
    assert told(events) == [
        ("t", "c", 1),
        ("t", "c", 2),
        ("t", "c", 3),
        ("t", "u", 1),
        ("t", "d", 1),
        ("t", "c", 1),
        ("t", "d", 3),
        ("t", "t", None),
    ]
    assert len({event.table.fingerprint for event in events}) == 1
    assert [list(event.key or {}) for event in events[:3]] == [["region", "id"]] * 3
    assert events[5].after == {"id": 1, "region": "us", "n": 10}


@pytest.mark.parametrize("how", ["setting", "publication"])
def test_p24_root_is_read_as_one_table(each_database: str, how: str) -> None:
    sql(
        each_database,
        *TABLES,
        "CREATE PUBLICATION mine FOR TABLE t WITH (publish_via_partition_root = true)",
        insert("(1, 'eu', 1)", "(2, 'us', 2)", "(3, 'x', 3)"),
        "ANALYZE t",
    )
    keys = ROOT if how == "setting" else {"publication": "mine"}

    async def scenario() -> list[Event]:
        async with running(each_database, keys=keys) as run:
            await run.until_backfilled()
            [status] = await run.source.tables()  # type: ignore[attr-defined]
            assert (status.table.name, status.rows) == ("t", 3)
            sql(each_database, insert("(4, 'x', 4)"), "UPDATE t SET region = 'eu' WHERE id = 2")
            [(now,)] = sql(each_database, "SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint")
            await run.until(lambda: confirmed(each_database) >= now)
            return run.events

    events = asyncio.run(scenario())
    assert {event.table.label for event in events} == {"public.t"}
    assert [event.op for event in events] == ["r", "r", "r", "c", "d", "c"]
    assert sorted(fold(events)) == [("eu", 1), ("eu", 2), ("x", 3), ("x", 4)]


@pytest.mark.parametrize("partitions", ["leaf", "root"])
def test_p24_attach_and_detach(each_database: str, partitions: str) -> None:
    """Neither gives events; rows come and go with the name under which they are captured."""
    sql(each_database, *TABLES, insert("(1, 'eu', 1)"), "CREATE TABLE more (LIKE t)")
    sql(each_database, "ALTER TABLE more ADD PRIMARY KEY (region, id)")
    events = streamed(
        each_database,
        "ALTER TABLE t DETACH PARTITION t_eu",
        "INSERT INTO t_eu VALUES (2, 'eu', 2)",
        "INSERT INTO more VALUES (3, 'more', 3)",
        "ALTER TABLE t ATTACH PARTITION more FOR VALUES IN ('more')",
        insert("(4, 'more', 4)"),
        "CREATE TABLE t_new PARTITION OF t FOR VALUES IN ('new')",
        insert("(5, 'new', 5)"),
        partitions=partitions,
    )
    tables = ("more", "t_new") if partitions == "leaf" else ("t", "t")
    assert told(events) == [
        ("t_eu", "c", 2),
        ("more", "c", 3),
        (tables[0], "c", 4),
        (tables[1], "c", 5),
    ]


def via_root(dsn: str, name: str) -> bool:
    query = "SELECT pubviaroot FROM pg_publication WHERE pubname = %s"
    [(value,)] = sql(dsn, query, values=[name])
    return bool(value)


def start(dsn: str, **keys: Any) -> list[str]:
    """The tables that are captured once the stream stands."""

    async def scenario() -> list[str]:
        async with opened(dsn, slot="test", **keys) as source:
            await started(source)
            return await labels(source)

    return asyncio.run(scenario())


async def labels(source: PostgresSource) -> list[str]:
    return [status.table.name for status in await source.tables()]


def test_p24_the_own_publication_follows_the_setting(each_database: str) -> None:
    sql(each_database, *TABLES)
    keys = {"tables": ("public.t*",)}
    assert start(each_database, **keys) == ["t_eu", "t_us", "t_x1"]
    assert start(each_database, **keys, partitions="root") == ["t"]
    assert via_root(each_database, "test")
    assert start(each_database, **keys) == ["t"]
    assert start(each_database, **keys, partitions="leaf") == ["t_eu", "t_us", "t_x1"]
    assert not via_root(each_database, "test")


def test_p24_the_users_publication_does_not(each_database: str) -> None:
    sql(each_database, *TABLES, "CREATE PUBLICATION mine FOR TABLE t")
    with pytest.raises(ConfigError) as caught:
        start(each_database, publication="mine", partitions="root")
    assert "source.partitions is root, but publication 'mine' publishes" in str(caught.value)
    statement = 'ALTER PUBLICATION "mine" SET (publish_via_partition_root = true)'
    assert f"leave source.partitions out, or run: {statement};" in str(caught.value)
    sql(each_database, statement)
    assert start(each_database, publication="mine", partitions="root") == ["t"]


@pytest.mark.parametrize(
    ("what", "tables"),
    [
        ("FOR TABLE t_x", ["t_x"]),
        ("FOR TABLE t_x, t", ["t"]),
        ("FOR TABLE t_x1, t_eu", ["t_eu", "t_x1"]),
        ("FOR ALL TABLES", ["t"]),
        ("FOR TABLES IN SCHEMA public", ["t"]),
    ],
)
def test_p24_what_stands_for_the_partitions(database: str, what: str, tables: list[str]) -> None:
    """The same as in the stream: the topmost table that is published."""
    sql(database, *TABLES)
    sql(database, f"CREATE PUBLICATION mine {what} WITH (publish_via_partition_root = true)")
    events = streamed(database, insert("(1, 'eu', 1)", "(3, 'x', 3)"), publication="mine")
    assert {event.table.name for event in events} == set(tables)
    assert start(database, publication="mine") == tables


def test_p24_partitions_with_another_replica_identity(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    sql(
        database,
        *TABLES,
        "CREATE UNIQUE INDEX i ON t_us (id)",
        "ALTER TABLE t_us REPLICA IDENTITY USING INDEX i",
        "ALTER TABLE t_eu REPLICA IDENTITY FULL",
    )
    with caplog.at_level(logging.WARNING):
        start(database, partitions="root", tables=("public.t",))
    assert "public.t_us: the replica identity is not that of public.t" in caplog.text
    assert "t_eu" not in caplog.text
