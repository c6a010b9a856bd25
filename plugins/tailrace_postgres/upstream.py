"""The publication of a pipeline, kept in step with ``source.tables``."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from tailrace.errors import ConfigError, TransientError
from tailrace_postgres.captured import Captured
from tailrace_postgres.catalog import fetch, is_standby
from tailrace_postgres.config import PostgresConfig
from tailrace_postgres.lost import publication_lost
from tailrace_postgres.publication import (
    OPS,
    Publication,
    adding,
    creating,
    dropping,
    find_publication,
    setting,
)
from tailrace_postgres.tables import Table, odd_partitions, one_table, user_tables

log = logging.getLogger("tailrace.postgres")

_IN_TIME = sql.SQL("SET LOCAL lock_timeout = '5s'; ")
"""Altering a publication waits for VACUUM of a table that it names, and others wait for us."""

_NOT_NOW = (psycopg.errors.UndefinedTable, psycopg.errors.LockNotAvailable)
_RACES = (
    psycopg.errors.DuplicateObject,
    psycopg.errors.UniqueViolation,
    psycopg.errors.InternalError_,  # "tuple concurrently updated"
)


def slot_name(pipeline: str) -> str:
    """The pipeline's name in a slot's alphabet: lower case letters, digits and underscores."""
    return re.sub(r"[^a-z0-9_]", "_", pipeline.lower())[:63]


class Publisher:
    """Knows which tables are captured, and publishes them where it may.

    A publication that ``source.publication`` names is the user's: what is missing is added to it,
    nothing is taken away, and without ``source.tables`` what it publishes is what is captured.
    `made` says that this run made it.
    """

    def __init__(self, config: PostgresConfig, own_name: str) -> None:
        self.name = config.publication or own_name
        self.patterns = Captured(config.tables)
        self.made = False
        self._config = config
        self._own = config.publication is None
        self._follows = not self._own and "tables" not in config.model_fields_set
        self._ready = False
        self._refused: set[int] = set()
        self._said: set[str] = set()

    async def tables(self, connection: AsyncConnection[Any]) -> list[Table]:
        """The tables to capture, published or not."""
        return await self._tables(connection, await find_publication(connection, self.name))

    async def check(self, connection: AsyncConnection[Any]) -> None:
        """Raises ConfigError for patterns that no table matches."""
        tables = await self.tables(connection)
        unmatched = self.patterns.unmatched(table.label for table in tables)
        if unmatched and self.patterns.everything:
            raise ConfigError(
                "the database has no tables that could be captured",
                mend="create one first, or name the right database in source.dsn",
            )
        if unmatched:
            raise ConfigError(
                f"source.tables: no table matches {', '.join(unmatched)}",
                mend="name an existing table as schema.table; case counts",
            )

    async def find(self, connection: AsyncConnection[Any], path: tuple[str, ...]) -> Table | None:
        """The table, published or not; None if it is gone."""
        schema, name = path
        return await one_table(connection, schema, name, self.name)

    async def table(self, connection: AsyncConnection[Any], path: tuple[str, ...]) -> Table | None:
        """The table, which must be published; None if it is gone."""
        table = await self.find(connection, path)
        if table is not None and not table.published:
            raise TransientError(
                f"{table.label} is not in publication {self.name!r} any more",
                mend="add it again, or exclude it from source.tables and start again",
            )
        return table

    async def _tables(
        self, connection: AsyncConnection[Any], publication: Publication | None
    ) -> list[Table]:
        roots = self._roots(publication)
        tables = await user_tables(connection, self.patterns, self.name, roots=roots)
        if publication is not None and self._follows:
            return [table for table in tables if table.published]
        return tables

    def _roots(self, publication: Publication | None) -> bool:
        if self._config.partitions is None:
            return publication is not None and publication.via_root
        return self._config.partitions == "root"

    async def ensure(
        self, connection: AsyncConnection[Any], slot: str, *, resuming: bool
    ) -> list[Table]:
        """Make the publication, or bring it in step; returns the tables to capture.

        Raises ConfigError with the statement to run if it may not be run here, PositionLostError
        if the publication is gone on which a saved position depends (`resuming`); `slot` is for
        its advice. Called again when the connection was lost.
        """
        publication = await find_publication(connection, self.name)
        if publication is not None:
            await self._follow_partitions(connection, publication)
            await self._drop_surplus(connection, publication)
            self._warn_of_ops(connection, publication)
        tables = await self._tables(connection, publication)
        missing = [table for table in tables if not table.published]
        if publication is None and resuming:
            await self.check_presence(connection, slot)
        elif publication is None:
            await self._run(connection, await self._creating(connection, tables), "does not exist")
            self.made = True
        elif missing and self._ready:
            await self._publish_each(connection, missing)
        elif missing:
            await self._run(connection, adding(self.name, missing), "lacks captured tables")
        self._ready = True
        self._warn_of_identity(tables, publication)
        await self._warn_of_partitions(connection, tables)
        return tables

    async def check_presence(self, connection: AsyncConnection[Any], slot: str) -> None:
        """Raises PositionLostError if the publication of a saved position is gone."""
        if await find_publication(connection, self.name) is None:
            statement = await self._creating(connection, await self._tables(connection, None))
            raise publication_lost(self.name, slot, statement.as_string(connection))

    async def publish_missing(self, connection: AsyncConnection[Any]) -> list[Table]:
        """Publish the tables that have come to match since; returns all that are published.

        For one that the role may not publish the statement is logged, once. Before `ensure`
        nothing is changed, and all that are to be captured are returned.
        """
        publication = await find_publication(connection, self.name)
        tables = await self._tables(connection, publication)
        if not self._ready:
            return tables
        missing = [table for table in tables if not table.published]
        if publication is not None and await self._publish_each(connection, missing):
            tables = await self._tables(connection, publication)
            self._warn_of_identity(tables, publication)
        return [table for table in tables if table.published]

    async def _publish_each(
        self, connection: AsyncConnection[Any], missing: Sequence[Table]
    ) -> bool:
        """Whether any was added. What was refused once is left to others."""
        added = False
        for table in missing:
            if table.relation.relid in self._refused:
                continue
            try:
                await self._run(connection, adding(self.name, [table]), f"lacks {table.label}")
                added = True
            except (*_NOT_NOW, TransientError):
                continue  # gone, or for the next time
            except ConfigError as error:
                self._refused.add(table.relation.relid)
                log.warning("%s is not captured: %s", table.label, error)
        return added

    async def drop(self, connection: AsyncConnection[Any]) -> None:
        await connection.execute(
            sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(self.name))
        )

    async def _creating(
        self, connection: AsyncConnection[Any], tables: Sequence[Table]
    ) -> sql.Composed:
        [(superuser,)] = await fetch(
            connection, sql.SQL("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        )
        everything = self.patterns.everything and superuser
        roots = self._config.partitions == "root"
        return creating(self.name, None if everything else tables, via_root=roots)

    async def _follow_partitions(
        self, connection: AsyncConnection[Any], publication: Publication
    ) -> None:
        roots = self._roots(publication)
        if roots == publication.via_root:
            return
        value = "true" if roots else "false"
        statement = setting(self.name, f"publish_via_partition_root = {value}")
        if self._own:
            await self._run(connection, statement, "disagrees with source.partitions")
            return
        text = statement.as_string(connection)
        raise ConfigError(
            f"source.partitions is {self._config.partitions}, but publication {self.name!r}"
            f" publishes partitions as {'leaf' if roots else 'root'}",
            mend=f"leave source.partitions out, or run: {text};",
        )

    async def _drop_surplus(
        self, connection: AsyncConnection[Any], publication: Publication
    ) -> None:
        """What nobody captures any more only costs: that it stays is no error."""
        surplus = [path for path in publication.named if not self.patterns.matches(".".join(path))]
        if surplus and self._own:
            statement = dropping(self.name, surplus)
            try:
                await self._run(connection, statement, "has tables that are not captured any more")
            except ConfigError as error:
                self._once(statement.as_string(connection), str(error))
            except psycopg.errors.LockNotAvailable:
                pass

    async def _run(
        self, connection: AsyncConnection[Any], statement: sql.Composed, problem: str
    ) -> None:
        text = statement.as_string(connection)
        if not self._config.create:
            raise self._refusal(f"{problem}, and source.create is false", f"run: {text};")
        if await is_standby(connection):
            raise self._refusal(problem, f"run on the primary: {text};")
        try:
            await connection.execute(_IN_TIME + statement)
        except psycopg.errors.InsufficientPrivilege as error:
            why = f"{problem}, and the role may not change that: {error.diag.message_primary}"
            raise self._refusal(why, f"let their owner or a superuser run: {text};") from error
        except _RACES as error:
            raise TransientError(
                f"somebody else changes publication {self.name!r}: {error.diag.message_primary}"
            ) from error
        log.info("%s", text)

    def _refusal(self, problem: str, mend: str) -> ConfigError:
        if self._own and self._config.temporary:  # nobody can make it before its name is known
            mend = "set source.publication to one that publishes the tables"
        return ConfigError(f"publication {self.name!r} {problem}", mend=mend)

    def _warn_of_ops(self, connection: AsyncConnection[Any], publication: Publication) -> None:
        if publication.unpublished:
            every = setting(self.name, f"publish = '{', '.join(OPS)}'").as_string(connection)
            self._once(
                "ops",
                f"publication {self.name!r} does not publish {', '.join(publication.unpublished)}:"
                f" these changes are not delivered; to have them: {every};",
            )

    def _warn_of_identity(self, tables: Sequence[Table], publication: Publication | None) -> None:
        if publication is not None and {"update", "delete"} <= set(publication.unpublished):
            return
        for table in tables:
            if not table.identified:
                self._once(
                    table.label,
                    f"{table.label} has no replica identity: the server refuses UPDATE and DELETE"
                    " on it while it is published; give it a primary key, or ALTER TABLE"
                    f" {table.label} REPLICA IDENTITY FULL, or exclude it from source.tables",
                )

    async def _warn_of_partitions(
        self, connection: AsyncConnection[Any], tables: Sequence[Table]
    ) -> None:
        for root in tables:
            if root.partitioned and (odd := await odd_partitions(connection, root)):
                self._once(
                    f"partitions of {root.label}",
                    f"{', '.join(odd)}: the replica identity is not that of {root.label}, so the"
                    " keys of rows that are changed there are missing; make it the same",
                )

    def _once(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("%s", text)
