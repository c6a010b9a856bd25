"""Waiting for transactions that may have written to a table before it was published."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import AsyncConnection

from pipelines import eventually, sql
from tailrace_postgres import writers
from tailrace_postgres.tables import one_table
from tailrace_postgres.writers import writers_ended

T = "CREATE TABLE t (id int PRIMARY KEY)"
PARTITIONS = (
    "CREATE TABLE p (id int) PARTITION BY RANGE (id)",
    "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)",
)


@contextmanager
def writing(dsn: str, *statements: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn) as connection:
        for statement in statements:
            connection.execute(statement.encode())
        yield connection


async def waiting(dsn: str, table: str, caplog: pytest.LogCaptureFixture) -> asyncio.Task[None]:
    """The wait for who writes to the table, once it has said that it waits."""

    async def wait() -> None:
        async with await AsyncConnection.connect(dsn, autocommit=True) as connection:
            found = await one_table(connection, "public", table, "none")
            assert found is not None
            await writers_ended(connection, found)

    task = asyncio.create_task(wait())
    said = f"the backfill of public.{table} waits for transactions that may have written to it"
    await eventually(lambda: task.done() or said in caplog.text)
    return task


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "_PATIENCE", 0.0)


@pytest.mark.parametrize("table", ["p", "p1"])
def test_writers_of_a_partition(
    each_database: str, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        with writing(each_database, "INSERT INTO p VALUES (1)") as writer:
            task = await waiting(each_database, table, caplog)
            assert not task.done()
            assert f"(pid {writer.info.backend_pid})" in caplog.text
            writer.commit()
            await task

    sql(each_database, *PARTITIONS)
    asyncio.run(scenario())


def test_a_writer_that_becomes_a_prepared_transaction(
    preparing: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        statements = ("SAVEPOINT s", "INSERT INTO t VALUES (1)")
        with writing(preparing, *statements) as writer:
            task = await waiting(preparing, "t", caplog)
            writer.execute("PREPARE TRANSACTION 'w'")
        caplog.clear()
        assert not (await waiting(preparing, "t", caplog)).done()
        assert not task.done()
        sql(preparing, "COMMIT PREPARED 'w'")
        await task

    sql(preparing, T)
    asyncio.run(scenario())


@pytest.mark.parametrize(
    "statement",
    ["SELECT * FROM t", "SELECT * FROM t FOR UPDATE", "INSERT INTO other VALUES (1)"],
)
def test_who_does_not_write_is_not_waited_for(
    database: str, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        with writing(database, statement):
            await (await waiting(database, "t", caplog))
            assert "waits" not in caplog.text

    sql(database, T, "INSERT INTO t VALUES (1)", "CREATE TABLE other (id int)")
    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
