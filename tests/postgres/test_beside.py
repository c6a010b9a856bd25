"""Beside the captured tables: long transactions of others, and what is not captured at all."""

from __future__ import annotations

import asyncio

from pipelines import running, sql
from tailrace.event import Event

TABLE = "CREATE TABLE t (id int PRIMARY KEY)"
SENDER = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'test'"


def test_p07_a_huge_transaction_outlasts_the_servers_patience(database: str) -> None:
    """Nearly all of it is of a table that is not captured, so the server has nothing to send."""
    sql(database, TABLE, "CREATE TABLE busy (n int, filler text)")
    dsn = f"{database}?options=-c%20wal_sender_timeout%3D1000"
    rows = "INSERT INTO busy SELECT n, repeat('x', 100) FROM generate_series(1, 300000) n"

    async def scenario() -> list[Event]:
        async with running(dsn, keys={"tables": "public.t"}) as run:
            await run.until_backfilled()
            pid = sql(database, SENDER)
            sql(database, f"WITH busy AS ({rows}) INSERT INTO t VALUES (1)")
            events = list(await run.until_events(1))
            assert sql(database, SENDER) == pid
            assert run.pipeline.stats.retries == 0
            return events

    assert [event.after for event in asyncio.run(scenario())] == [{"id": 1}]


def test_p26_sequences_large_objects_and_ddl_are_no_events(database: str) -> None:
    """They do not hold the position back, either."""
    sql(database, TABLE)

    async def scenario() -> list[Event]:
        async with running(database) as run:
            await run.until_backfilled()
            before = run.pipeline.stats.position
            sql(
                database,
                "CREATE SEQUENCE s",
                "SELECT nextval('s'), setval('s', 1000)",
                "SELECT lo_from_bytea(0, 'large')",
                "CREATE VIEW v AS SELECT * FROM t",
                "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
                "COMMENT ON TABLE t IS 'of orders'",
                "CREATE INDEX ON t ((id + 1))",
            )
            await run.until(lambda: run.pipeline.stats.position != before)
            assert run.events == []
            sql(database, "INSERT INTO t VALUES (1)")
            return list(await run.until_events(1))

    assert [event.op for event in asyncio.run(scenario())] == ["c"]
