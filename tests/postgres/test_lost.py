"""The position is lost: publications that were gone (P11), slots made again, short logs."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest

from pipelines import DEADLINE, Notes, pipeline, running, sql
from tailrace.errors import PositionLostError
from tailrace.event import Event
from tailrace_demo.servers import Postgres

T = "CREATE TABLE t (id int PRIMARY KEY)"
DROP_PUBLICATION = "DROP PUBLICATION test"
PUBLICATION = "CREATE PUBLICATION test FOR ALL TABLES"
DROP_SLOT = "SELECT pg_drop_replication_slot('test')"
SLOT = "SELECT pg_create_logical_replication_slot('test', 'pgoutput')"


def insert(n: int) -> str:
    return f"INSERT INTO t VALUES ({n})"


def used(dsn: str) -> Notes:
    """The checkpoint of a pipeline that has delivered a row and ended."""
    store = Notes()

    async def scenario() -> None:
        async with running(dsn, store, snapshot="never") as run:
            await run.streaming()
            sql(dsn, insert(1))
            await run.until_events(1)

    sql(dsn, T)
    asyncio.run(scenario())
    return store


def lost(dsn: str, store: Notes, **keys: str) -> tuple[str, list[int]]:
    """What a start with that checkpoint says, and the rows delivered before it does."""
    run = pipeline(dsn, store, snapshot="never", keys=keys)
    with pytest.raises(PositionLostError) as caught:
        asyncio.run(asyncio.wait_for(run.pipeline.run(), DEADLINE))
    said = str(caught.value)
    assert "either " in said
    assert "or accept that changes are missing: start with on_lost=resnapshot, or" in said
    assert "delete the checkpoint" in said
    return said, [(event.after or {})["id"] for event in run.events]


def goes_on(dsn: str, store: Notes, count: int) -> list[int]:
    async def scenario() -> list[Event]:
        async with running(dsn, store, snapshot="never") as run:
            return await run.until_events(count)

    return [(event.after or {})["id"] for event in asyncio.run(scenario())]


def test_p11_a_publication_that_is_gone(each_database: str) -> None:
    """It is not made again in silence: what was written meanwhile would be missing."""
    store = used(each_database)
    sql(each_database, DROP_PUBLICATION)
    said, rows = lost(each_database, store)
    assert "publication 'test' is gone" in said
    assert 'if nothing was written since, run CREATE PUBLICATION "test" FOR ALL TABLES; and' in said
    assert rows == []
    assert sql(each_database, "SELECT 1 FROM pg_publication") == []


def test_p11_a_publication_that_was_gone(each_database: str) -> None:
    """PostgreSQL 18 leaves the changes out with a warning, older ones end the stream."""
    store = used(each_database)
    sql(each_database, insert(2), DROP_PUBLICATION, insert(3), PUBLICATION, insert(4))
    for _ in range(2):  # and remains so
        said, rows = lost(each_database, store)
        assert "publication 'test' did not exist when what comes next was written" in said
        assert "restore a database, slot and checkpoint" in said
        assert rows in ([], [2])
    assert "SELECT pg_drop_replication_slot(" in said


def test_p11_a_publication_made_again_before_anything_was_written(each_database: str) -> None:
    store = used(each_database)
    sql(each_database, insert(2), DROP_PUBLICATION, PUBLICATION, insert(3))
    assert goes_on(each_database, store, 2) == [2, 3]


def test_p11_dropped_while_it_runs(each_database: str) -> None:
    sql(each_database, T)

    async def scenario() -> None:
        async with running(each_database, snapshot="never") as run:
            await run.streaming()
            sql(each_database, insert(1), DROP_PUBLICATION, insert(2))
            await run.until(lambda: False)

    with pytest.raises(PositionLostError, match="publication 'test' "):
        asyncio.run(scenario())


def test_p11_a_slot_older_than_its_publication(each_database: str) -> None:
    sql(each_database, T, SLOT, insert(1), PUBLICATION, insert(2))
    said, rows = lost(each_database, Notes(), slot="test")
    assert "did not exist when what comes next was written" in said
    assert rows == []


def test_p03_a_slot_made_again_at_once(each_database: str) -> None:
    """Nothing was written between, but that cannot be told: to make it writes to the log."""
    store = used(each_database)
    with psycopg.connect(each_database, autocommit=True) as connection:
        for statement in (DROP_SLOT, SLOT):
            connection.execute(statement.encode())
    said, rows = lost(each_database, store)
    assert "ahead of the saved position" in said
    assert "restore the newest checkpoint" in said
    assert rows == []


def test_p03_a_slot_copied_and_put_in_its_place_is_as_good(each_database: str) -> None:
    store = used(each_database)
    sql(
        each_database,
        "SELECT pg_copy_logical_replication_slot('test', 'copy')",
        DROP_SLOT,
        "SELECT pg_copy_logical_replication_slot('copy', 'test')",
        insert(2),
    )
    assert goes_on(each_database, store, 1) == [2]


def test_p05_a_database_restored_from_before_the_checkpoint(embedded: Path) -> None:
    """The same system identifier, a slot that is there, and a log that ends too early."""
    with Postgres(embedded / "server", settings={"fsync": "off"}) as server:
        sql(server.dsn, T)
        store = Notes()
        data = Path(sql(server.dsn, "SHOW data_directory")[0][0])

        async def deliver(n: int) -> None:
            async with running(server.dsn, store, snapshot="never") as run:
                await run.streaming()
                sql(server.dsn, insert(n))
                await run.until_events(1)

        asyncio.run(deliver(1))
        server.stop()
        subprocess.run(["cp", "-a", data, embedded / "backup"], check=True)
        server.start()
        asyncio.run(deliver(2))
        server.stop()
        shutil.rmtree(data)
        (embedded / "backup").rename(data)
        server.start()
        said, rows = lost(server.dsn, store)
        assert "the server's log ends at" in said
        assert "before the saved position" in said
        assert rows == []
