"""Slots made by hand, for standbys, or unfit; publication and slot with source.create=false."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import psycopg
import pytest

from pipelines import delivered_once, running, sql
from servers.tidy import create_database, drop_database
from sources import opened, started
from tailrace.errors import ConfigError
from tailrace.event import Event
from tailrace_demo.servers import Postgres
from tailrace_postgres.config import PostgresConfig

T = "CREATE TABLE t (id int PRIMARY KEY)"
BY_HAND = {"create": False}


def refused(dsn: str, **keys: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        delivered_once(dsn, keys=keys)
    return "\n".join(map(str, caught.value.problems))


def statements(said: str) -> list[str]:
    return re.findall(r"run: (.*);", said)


def made(dsn: str) -> tuple[int, int]:
    """How many publications and slots there are."""
    [(publications,)] = sql(dsn, "SELECT count(*) FROM pg_publication")
    query = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    [(slots,)] = sql(dsn, query)
    return publications, slots


def test_nothing_is_made_or_changed_but_by_hand(each_database: str) -> None:
    sql(each_database, T, "INSERT INTO t VALUES (1)")
    said = refused(each_database, **BY_HAND)
    assert "publication 'test' does not exist, and source.create is false" in said
    assert "replication slot 'test' does not exist, and source.create is false" in said
    assert made(each_database) == (0, 0)
    publication, slot = statements(said)
    sql(each_database, publication)
    assert statements(refused(each_database, **BY_HAND)) == [slot]
    sql(each_database, slot)

    async def scenario() -> list[Event]:
        async with running(each_database, keys=BY_HAND) as run:
            await run.until_backfilled()
            sql(each_database, "INSERT INTO t VALUES (2)")
            return await run.until_events(2)

    assert [(event.op, event.key) for event in asyncio.run(scenario())] == [
        ("r", {"id": 1}),
        ("c", {"id": 2}),
    ]


def test_a_publication_made_by_hand_is_not_changed(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    slot = "SELECT pg_create_logical_replication_slot('test', 'pgoutput')"
    sql(database, T, "CREATE TABLE u (id int PRIMARY KEY)", "CREATE PUBLICATION test FOR TABLE u")
    sql(database, slot)
    keys = {**BY_HAND, "tables": "public.t"}
    [statement] = statements(refused(database, **keys))
    assert statement == 'ALTER PUBLICATION "test" ADD TABLE ONLY "public"."t"'
    sql(database, statement)

    async def scenario() -> None:
        async with opened(database, create=False, tables=("public.t*",)) as source:
            await started(source)
            sql(database, "CREATE TABLE t2 (id int PRIMARY KEY)")
            for _ in range(2):
                assert [status.table.name for status in await source.tables()] == ["t"]

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert caplog.text.count("public.t2 is not captured") == 1
    assert sql(database, "SELECT count(*) FROM pg_publication_rel") == [(2,)]


def test_a_temporary_slot_is_made_all_the_same(database: str) -> None:
    """``cdc tail`` for a role that may not make publications."""
    sql(database, T, "CREATE PUBLICATION mine FOR TABLE t")
    keys = {**BY_HAND, "publication": "mine", "temporary": True, "slot": "tailing"}
    delivered_once(database, keys=keys, snapshot="never")
    assert made(database) == (1, 0)


def kept_by_standbys(dsn: str, slot: str) -> bool:
    query = "SELECT failover FROM pg_replication_slots WHERE slot_name = %s"
    [(failover,)] = sql(dsn, query, values=[slot])
    return bool(failover)


FAILOVER = {"failover": True}


def test_failover_slots(database: str, caplog: pytest.LogCaptureFixture) -> None:
    sql(database, T)
    [_, statement] = statements(refused(database, **BY_HAND, **FAILOVER))
    sql(database, statement.replace("'test'", "'by_hand'"))
    assert kept_by_standbys(database, "by_hand")
    with caplog.at_level(logging.WARNING):
        delivered_once(database, keys=FAILOVER)
        assert kept_by_standbys(database, "test")
        assert "not kept by standbys" not in caplog.text
        sql(database, "SELECT pg_create_logical_replication_slot('bare', 'pgoutput')")
        delivered_once(database, keys={**FAILOVER, "slot": "bare"}, name="other")
    [command] = statements(caplog.text)
    assert command == 'ALTER_REPLICATION_SLOT "bare" (FAILOVER true)'
    with psycopg.connect(f"{database}?replication=database", autocommit=True) as replication:
        replication.execute(command.encode())
    assert kept_by_standbys(database, "bare")


def test_failover_slots_need_17(database16: str) -> None:
    sql(database16, T)
    said = refused(database16, **FAILOVER)
    assert "source.failover needs PostgreSQL 17 or newer, and this is 16" in said


def test_a_temporary_slot_has_no_copies() -> None:
    with pytest.raises(ValueError, match="a temporary slot cannot be kept by standbys"):
        PostgresConfig.model_validate({"dsn": "host=x", "failover": True, "temporary": True})


def test_a_slot_of_another_database(postgres: Postgres, database: str) -> None:
    name, other = create_database(postgres)
    try:
        sql(database, T)
        sql(other, "SELECT pg_create_logical_replication_slot('elsewhere', 'pgoutput')")
        said = refused(database, slot="elsewhere")
        assert f"slot 'elsewhere' belongs to the database '{name}'" in said
    finally:
        drop_database(postgres, name)
