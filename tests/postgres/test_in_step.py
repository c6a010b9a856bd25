"""The publication is kept in step with source.tables, where the role may."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pipelines import Notes, delivered_once, running, sql
from postgres.checking import a_role, as_role
from sources import events_of, opened, read, started
from tailrace.errors import ConfigError
from tailrace.schema import TableSchema
from tailrace_postgres.source import PostgresSource

T = "CREATE TABLE t (id int PRIMARY KEY)"
U = "CREATE TABLE u (id int PRIMARY KEY)"
PUBLIC = {"tables": "public.*"}


@pytest.fixture
def owner(database: str) -> Iterator[str]:
    """The dsn of a role that owns nothing yet, but may replicate and make tables."""
    with a_role(database) as role:
        name = database.rsplit("/", 1)[1]
        sql(database, f"GRANT CREATE ON SCHEMA public TO {role}")
        sql(database, f'GRANT CREATE ON DATABASE "{name}" TO {role}')
        yield as_role(database, role)


def published(dsn: str, name: str = "test") -> list[str]:
    query = "SELECT tablename::text FROM pg_publication_tables WHERE pubname = %s ORDER BY 1"
    return [table for (table,) in sql(dsn, query, values=[name])]


def refused(dsn: str, **keys: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        delivered_once(dsn, keys=keys)
    return str(caught.value)


async def listed(source: PostgresSource) -> list[str]:
    return [status.table.name for status in await source.tables()]


def test_tables_made_later_are_published_while_it_runs(each_database: str) -> None:
    sql(each_database, T)

    async def scenario() -> None:
        async with opened(each_database, tables=("public.*",)) as source:
            start = await started(source)
            sql(each_database, U, "CREATE SCHEMA s", "CREATE TABLE s.x (id int PRIMARY KEY)")
            sql(each_database, "CREATE UNLOGGED TABLE y (id int)", "CREATE VIEW z AS SELECT 1")
            assert published(each_database) == ["t"]
            assert await listed(source) == ["t", "u"]
            assert published(each_database) == ["t", "u"]
            sql(each_database, "INSERT INTO u VALUES (1)")
            sql(each_database, "DROP TABLE u", U, "ALTER TABLE t RENAME TO renamed")
            assert await listed(source) == ["renamed", "u"]
            with psycopg.connect(each_database) as somebody:
                somebody.execute("LOCK TABLE u IN ACCESS EXCLUSIVE MODE")
                assert await listed(source) == ["renamed", "u"]
            sql(each_database, "INSERT INTO u VALUES (2)", "INSERT INTO renamed VALUES (3)")
            events = events_of(await read(source, start))
            assert [event.table.name for event in events] == ["u", "u", "renamed"]

    asyncio.run(scenario())


def test_what_the_role_may_not_publish_is_said_once(
    database: str, owner: str, caplog: pytest.LogCaptureFixture
) -> None:
    sql(owner, T)

    async def scenario() -> None:
        async with opened(owner, tables=("public.*",)) as source:
            start = await started(source)
            sql(owner, "CREATE TABLE own (id int PRIMARY KEY)")
            sql(database, U)
            for _ in range(3):
                assert await listed(source) == ["own", "t"]
            sql(owner, "INSERT INTO t VALUES (1)")
            # That it is not published is no reason to stop when the stream begins again, either.
            assert len(events_of(await read(source, start))) == 1
            sql(database, "ALTER PUBLICATION test ADD TABLE u")
            assert await listed(source) == ["own", "t", "u"]

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert caplog.text.count("public.u is not captured: publication 'test' lacks public.u") == 1
    assert 'run: ALTER PUBLICATION "test" ADD TABLE ONLY "public"."u";' in caplog.text


def test_what_the_role_may_not_publish_stops_the_start(database: str, owner: str) -> None:
    sql(owner, T)
    sql(database, U)
    said = refused(owner, **PUBLIC)
    assert "publication 'test' does not exist, and the role may not change that: must be" in said
    statement = 'CREATE PUBLICATION "test" FOR TABLE ONLY "public"."t", ONLY "public"."u"'
    assert f"let their owner or a superuser run: {statement};" in said
    sql(owner, 'CREATE PUBLICATION "test" FOR TABLE t')
    said = refused(owner, **PUBLIC)
    statement = 'ALTER PUBLICATION "test" ADD TABLE ONLY "public"."u"'
    assert f"run: {statement};" in said
    sql(database, statement)
    start(owner, tables=("public.*",))


def start(dsn: str, **keys: Any) -> None:
    """Start to stream, as a pipeline does that is started again."""

    async def scenario() -> None:
        async with opened(dsn, slot="test", **keys) as source:
            await started(source)

    asyncio.run(scenario())


def test_the_own_publication_loses_what_no_longer_matches(each_database: str) -> None:
    sql(each_database, T, U, "CREATE TABLE kid () INHERITS (t)")
    start(each_database, tables=("public.*",))
    assert published(each_database) == ["kid", "t", "u"]
    start(each_database, tables=("public.t",))
    assert published(each_database) == ["t"]
    start(each_database, tables=("public.u", "public.kid"))
    assert published(each_database) == ["kid", "u"]


def test_the_users_publication_loses_nothing(database: str) -> None:
    sql(
        database, T, U, "CREATE TABLE v (id int PRIMARY KEY)", "CREATE PUBLICATION mine FOR TABLE t"
    )
    delivered_once(database, keys={"publication": "mine", "tables": "public.u"}, snapshot="never")
    assert published(database, "mine") == ["t", "u"]


def test_surplus_that_may_not_be_dropped_is_no_error(
    database: str, owner: str, caplog: pytest.LogCaptureFixture
) -> None:
    sql(owner, T)
    sql(database, U, "CREATE PUBLICATION test FOR TABLE t, u")
    with caplog.at_level(logging.WARNING):
        start(owner, tables=("public.t",))
    assert 'ALTER PUBLICATION "test" DROP TABLE ONLY "public"."u"' in caplog.text


def test_p13_tables_that_can_no_longer_be_updated_are_named(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The publisher itself refuses then, with its own error."""
    sql(database, T, "CREATE TABLE bare (n int)", "CREATE TABLE none (id int PRIMARY KEY)")
    sql(database, "ALTER TABLE none REPLICA IDENTITY NOTHING", "INSERT INTO none VALUES (1)")
    with caplog.at_level(logging.WARNING):
        start(database)
    for table in ("bare", "none"):
        assert f"public.{table} has no replica identity" in caplog.text
        assert f"ALTER TABLE public.{table} REPLICA IDENTITY FULL" in caplog.text
    assert "public.t has no" not in caplog.text
    for statement in ("UPDATE none SET id = 2", "DELETE FROM none"):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="replica identity"):
            sql(database, statement)


class Hasty(PostgresSource):
    """Reads a table at once, whoever is writing to it."""

    async def prepare(self, table: TableSchema) -> None:
        pass


class Asked(PostgresSource):
    """Tells when it begins to wait for who writes to a table."""

    waiting = False

    async def prepare(self, table: TableSchema) -> None:
        self.waiting = table.name == "u"
        await super().prepare(table)
        self.waiting = False


def early_rows(dsn: str, source: type[PostgresSource]) -> list[int]:
    """Rows of a transaction that wrote to a table before it was published, and commits later."""
    store = Notes()
    sql(dsn, T)
    delivered_once(dsn, store, keys=PUBLIC)
    sql(dsn, U)

    async def scenario() -> list[int]:
        with psycopg.connect(dsn) as writer:
            writer.execute("INSERT INTO u VALUES (1)")
            async with running(dsn, store, source=source, keys=PUBLIC) as run:
                if isinstance(run.source, Asked):
                    await run.until(lambda: getattr(run.source, "waiting", False))
                    assert "public.u" not in backfilled(store)
                else:
                    await run.until(lambda: "public.u" in backfilled(store))
                assert published(dsn) == ["t", "u"]
                writer.execute("INSERT INTO u VALUES (2)")
                writer.commit()
                await run.until(lambda: "public.u" in backfilled(store))
                sql(dsn, "INSERT INTO u VALUES (3)")
                await run.until(lambda: run.events and run.events[-1].key == {"id": 3})
                return sorted({(event.key or {})["id"] for event in run.events})

    return asyncio.run(scenario())


def backfilled(store: Notes) -> list[str]:
    tables = store.saved[-1].tables if store.saved else {}
    return [label for label, progress in tables.items() if progress.done]


def test_a_transaction_from_before_the_publication(each_database: str) -> None:
    assert early_rows(each_database, Asked) == [1, 2, 3]


def test_a_transaction_from_before_is_lost_without_the_wait(database: str) -> None:
    """What the wait is for; should the server learn better, the wait may go."""
    assert early_rows(database, Hasty) == [2, 3]
