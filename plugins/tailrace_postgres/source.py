"""The PostgreSQL source: opens, checks, streams, releases."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, ClassVar
from weakref import WeakSet

import psycopg
from psycopg import AsyncConnection, sql

from tailrace.config import PluginConfig
from tailrace.connector import (
    BackfillSource,
    Chunk,
    Finding,
    Reading,
    Setup,
    TableStatus,
    findings_of,
)
from tailrace.errors import ConfigError, PositionLostError, TailraceError, TransientError
from tailrace.event import Batch, Event, Position
from tailrace.patterns import Patterns
from tailrace.schema import TableSchema
from tailrace_postgres.catalog import fetch, is_standby, sender_timeout
from tailrace_postgres.check import Names, examine, place
from tailrace_postgres.chunks import estimated, one_snapshot, read_chunk
from tailrace_postgres.config import PostgresConfig
from tailrace_postgres.connecting import (
    break_off,
    check_version,
    conninfo_of,
    exposure,
    session,
)
from tailrace_postgres.decoder import Decoder
from tailrace_postgres.decoders import Decoders
from tailrace_postgres.errors import translated
from tailrace_postgres.lost import publication_lost
from tailrace_postgres.lsn import Place, lsn_text, record_end
from tailrace_postgres.messages import Messages
from tailrace_postgres.pgoutput import Relation
from tailrace_postgres.replication import Link
from tailrace_postgres.slots import (
    READS_STANDBYS,
    Start,
    check_failover,
    drop_slot,
    ensure_slot,
    find_slot,
    log_end,
    slot_missing,
)
from tailrace_postgres.tables import Table
from tailrace_postgres.timelines import check_timeline, identify
from tailrace_postgres.transactions import Assembler
from tailrace_postgres.upstream import Publisher, slot_name
from tailrace_postgres.whole import Cutter
from tailrace_postgres.writers import writers_ended

log = logging.getLogger("tailrace.postgres")

_HEARTBEAT = 1.0
_TAKE = 1_000
_REMEMBERED = 65_536


class PostgresSource(BackfillSource):
    """Reads a logical replication slot with pgoutput, protocol version 1."""

    Config: ClassVar[type[PluginConfig]] = PostgresConfig
    capabilities = frozenset(
        {"backfill", "before_image", "transactions", "truncate", "position_in_transaction"}
    )
    silence: ClassVar[float] = 60.0
    """Seconds without a word from the server, which we ask every second, until we hang up."""

    def __init__(self, config: PostgresConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.slot = config.slot or slot_name(setup.name)
        own = self.slot if config.temporary else slot_name(setup.name)
        self._publisher = Publisher(config, own)
        self._messages: Messages | None = None
        self._info = ""
        self._identity = ""
        self._timeline: int | None = None
        self._role = ""
        self._connecting = asyncio.Lock()
        self._admin: AsyncConnection[Any] | None = None
        self._reader: AsyncConnection[Any] | None = None
        self._sessions: WeakSet[AsyncConnection[Any]] = WeakSet()
        self._link: Link | None = None
        self._released = 0
        self._heard = 0.0
        self._asked = 0
        self._covered: frozenset[int] = frozenset()
        self._decoders = Decoders(self._connection)
        self._delivered: deque[int] = deque(maxlen=_REMEMBERED)

    @property
    def identity(self) -> str:
        return self._identity

    async def open(self) -> None:
        self._info = conninfo_of(self.config, self.setup.name)
        with translated("source.dsn: connecting to PostgreSQL", opening=True):
            admin = await self._connection()
            if danger := exposure(admin):
                log.warning("%s (sslmode=verify-full in source.dsn mends it)", danger)
            await self._check_server(admin)
            await self._identify()

    async def check(self) -> list[Finding]:
        try:
            self._info = conninfo_of(self.config, self.setup.name)
            with translated("source.dsn: connecting to PostgreSQL", opening=True):
                connection = await self._connection()
                check_version(connection)
            return await examine(connection, self._info, self._names())
        except TailraceError as error:
            return findings_of(error, "connection")
        finally:
            await self.close()

    def _names(self) -> Names:
        return Names(
            self.setup.name,
            self.slot,
            self._publisher,
            Patterns(self.setup.backfill) if self.setup.backfill else None,
            self.config,
        )

    async def check_position(self, position: Position) -> Finding:
        with translated("looking for the slot"):
            return await place(await self._connection(), self._names(), Place.parse(position))

    async def close(self) -> None:
        if self.config.temporary and self._publisher.made:
            with suppress(psycopg.Error):
                await self._publisher.drop(await self._connection())
        for connection in (self._admin, self._reader):
            if connection is not None:
                await connection.close()

    async def _check_server(self, admin: AsyncConnection[Any]) -> None:
        check_version(admin)
        [(standby, level)] = await fetch(
            admin, sql.SQL("SELECT pg_is_in_recovery(), current_setting('wal_level')")
        )
        if standby and admin.info.server_version < READS_STANDBYS:
            raise ConfigError("the server is a standby", mend="name the primary in source.dsn")
        check_failover(self.config, admin.info.server_version)
        if level != "logical":
            raise ConfigError(
                f"the server's wal_level is {level}, not logical",
                mend="ALTER SYSTEM SET wal_level = logical; then restart the server",
            )
        await self._publisher.check(admin)

    async def _identify(self) -> None:
        replication = await session(self._info, replication=True)
        try:
            self._identity, _ = await identify(replication)
        finally:
            await replication.close()

    async def _session(self) -> AsyncConnection[Any]:
        connection = await session(self._info)
        self._sessions.add(connection)
        return connection

    async def _connection(self) -> AsyncConnection[Any]:
        """The connection for the catalog; opened again if it broke."""
        async with self._connecting:  # stream and backfill come at the same time
            if self._admin is None or self._admin.closed:
                self._admin = await self._session()
                self._role = self._admin.info.user
            return self._admin

    async def begin(self) -> None:
        if self.config.slot or self.config.temporary or not self.config.create:
            return
        with translated("looking for the slot"):
            slot = await find_slot(await self._connection(), self.slot)
        if slot is not None:
            raise PositionLostError(
                f"replication slot {self.slot!r} is there, but pipeline {self.setup.name!r} has"
                " no checkpoint: it was kept somewhere else, or it is gone",
                mend="start where the checkpoint is (key checkpoint), or give up the slot: SELECT"
                f" pg_drop_replication_slot('{self.slot}'), or take it on: source.slot={self.slot}",
            )

    async def stream(self, after: Position | None) -> AsyncGenerator[Batch, None]:
        link, assembler = await self._start(after)
        try:
            if after is None:
                yield Batch([], self._position(assembler.place))
            async with aclosing(self._read(link, assembler)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self._link = None
            await link.close()

    def _position(self, place: Place) -> Position:
        return place.position(self._timeline)

    async def _start(self, after: Position | None) -> tuple[Link, Assembler]:
        """Publication first, then slot: a slot never stands before its publication."""
        with translated("starting replication"):
            admin = await self._connection()
            saved = None if self.config.temporary else after
            replication = await session(self._info, replication=True)
            link = Link(replication, self._released)
            try:
                timeline = await self._timeline_here(replication)
                tables = await self._publish(admin, resuming=saved is not None)
                place, made = await self._place(admin, replication, timeline, saved)
                timeout = await sender_timeout(admin)
                await link.start(self.slot, self._publisher.name, place.lsn, timeout)
            except BaseException:
                await link.close()
                raise
        self._link = link
        if made:
            self._covered = frozenset(table.relation.relid for table in tables)
        if self._messages is None:
            self._messages = Messages(admin.info.dbname, deliver=self.config.messages)
        return link, Assembler(self._identity, place, self._delivered, self._messages)

    async def _timeline_here(self, replication: AsyncConnection[Any]) -> int:
        """Raises PositionLostError if this is not the cluster any more that it was."""
        identity, timeline = await identify(replication)
        if identity != self._identity:
            raise PositionLostError(
                f"source.dsn leads to {identity} now, and led to {self._identity} before",
                mend="name the servers of one cluster only; to read another start again",
            )
        return timeline

    async def _place(
        self,
        admin: AsyncConnection[Any],
        replication: AsyncConnection[Any],
        timeline: int,
        after: Position | None,
    ) -> Start:
        # A standby goes over to another timeline in mid-stream, when it is promoted.
        self._timeline = None if await is_standby(admin) else timeline
        start = await ensure_slot(
            admin, replication, self.slot, self.config, Place.parse(after) if after else None
        )
        if after is not None:
            await check_timeline(replication, timeline, after, self.slot)
        return start

    async def _publish(self, admin: AsyncConnection[Any], *, resuming: bool) -> list[Table]:
        try:
            return await self._publisher.ensure(admin, self.slot, resuming=resuming)
        except ConfigError as error:
            if self.config.create or await find_slot(admin, self.slot):
                raise
            raise ConfigError.of([error, slot_missing(self.slot, self.config)]) from error

    async def _read(self, link: Link, assembler: Assembler) -> AsyncGenerator[Batch, None]:
        cutter = Cutter(self.setup)
        given, since = assembler.place, 0.0
        self._heard = time.monotonic()
        while True:
            events: list[Event] = []
            with translated("reading the stream"):
                limit = min(_TAKE, cutter.limit)
                size = assembler.take(link.receive, link.consume, events, limit, cutter.room)
                if assembler.keepalive:
                    self._answer(link, assembler)
            if link.unpublished:
                raise publication_lost(self._publisher.name, self.slot)
            now = time.monotonic()
            self._heard = self._heard if assembler.drained and not events else now
            cut = cutter.cut(events, size, assembler.place, assembler.transaction)
            if cut is not None:
                asked = 0 < self._asked <= cut.place.lsn
                moved = cut.place > given and now - since >= _HEARTBEAT
                if cut.events or asked or moved:
                    given, since = cut.place, now
                    self._asked = 0 if asked else self._asked
                    yield Batch(cut.events, self._position(given), cut.size)
            if assembler.undescribed:
                await self._describe(assembler, assembler.undescribed)
            elif assembler.ended:
                raise self._end(link)
            elif assembler.drained:
                await self._wait(link, len(events))
            else:
                await asyncio.sleep(0)  # others must get on, too, however much is skipped

    def _end(self, link: Link) -> TailraceError:
        error = link.end()
        return publication_lost(self._publisher.name, self.slot) if link.unpublished else error

    async def _wait(self, link: Link, taken: int) -> None:
        with translated("reading the stream"):
            if await link.wait(taken):
                self._heard = time.monotonic()
            elif time.monotonic() - self._heard > self.silence:
                self._hang_up()
                raise TransientError(f"the server has said nothing for {self.silence:.0f} s")

    def _hang_up(self) -> None:
        """The other connections lead to the same server: nobody is to wait on them for ever."""
        for connection in self._sessions:
            break_off(connection)

    def _answer(self, link: Link, assembler: Assembler) -> None:
        assert assembler.keepalive is not None
        self._heard = time.monotonic()
        link.received = assembler.received
        if assembler.keepalive.reply:
            link.send_status()
        assembler.keepalive = None

    async def _describe(self, assembler: Assembler, relation: Relation) -> None:
        captured = self._publisher.patterns.matches(f"{relation.schema}.{relation.name}")
        with translated("looking up a table"):
            decoder = await self._decoders.of(relation) if captured else None
        assembler.describe(relation, decoder)

    async def release(self, position: Position) -> None:
        place = Place.parse(position)
        if not place.done:  # the slot confirms whole transactions only
            self._released = max(self._released, place.lsn)
            if self._link is not None:
                self._link.flushed = self._released

    async def head(self) -> Position:
        with translated("asking for the log's end"):
            end = await log_end(await self._connection())
        self._asked = record_end(end)
        if self._link is not None:
            self._link.ask()  # so that an idle stream passes the mark now, not in a second
        return Position(lsn_text(self._asked))

    def passed(self, position: Position, mark: Position) -> bool:
        return Place.parse(position) >= Place.parse(mark)

    async def tables(self) -> list[TableStatus]:
        with translated("listing the tables"):
            found = await self._publisher.publish_missing(await self._connection())
            return [TableStatus((await self._described(t)).table, t.rows) for t in found]

    async def _described(self, table: Table) -> Decoder:
        return await self._decoders.of(table.relation, table.key)

    async def prepare(self, table: TableSchema) -> None:
        """A slot that is being made waits for whoever writes, so its first tables are well."""
        with translated(f"waiting for who writes to {table.label}"):
            admin = await self._connection()
            found = await self._publisher.table(admin, table.path)
            if found is not None and found.relation.relid not in self._covered:
                await writers_ended(admin, found)

    async def chunk(
        self,
        table: TableSchema,
        after_key: tuple[str, ...] | None,
        limit: int,
        where: str | None,
    ) -> Chunk:
        what = f"reading {table.label} for the backfill"
        with translated(what, role=self._role, table=table.path):
            if self._reader is None or self._reader.closed:
                self._reader = await self._session()
            return await read_chunk(
                self._reader,
                table.path,
                after_key,
                where,
                (limit, self.setup.batch_bytes),
                self._delivered,
                self._publisher.table,
                self._described,
            )

    @asynccontextmanager
    async def reading(self, tables: Sequence[TableSchema]) -> AsyncGenerator[Reading, None]:
        with translated("reading tables without a key for the backfill", role=self._role):
            connection = await self._session()
            paths = [table.path for table in tables]
            find, describe = self._publisher.table, self._described
            async with one_snapshot(connection, paths, find, describe) as snapshot:
                yield snapshot

    async def estimate(self, table: TableSchema, where: str) -> int:
        what = f"snapshot.where.{table.label}: {where!r} is no condition for that table"
        with translated(what, refused="write what may follow WHERE in SQL, on its columns"):
            admin = await self._connection()
            found = await self._publisher.find(admin, table.path)
            return await estimated(admin, found, where) if found else 0

    async def reset(self) -> None:
        with translated(f"dropping replication slot {self.slot!r}"):
            await self._identify()  # it may lead to another cluster by now
            if self.config.create:  # what was made by hand is taken as it stands
                await drop_slot(await self._connection(), self.slot)
