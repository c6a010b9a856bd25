"""Reading existing rows for the backfill: one COPY of a key range, as of one moment."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from tailrace.connector import Chunk
from tailrace.row import Change
from tailrace_postgres.catalog import Table, fetch, one_table
from tailrace_postgres.changes import CopiedRow
from tailrace_postgres.decoder import Decoder, unescape

log = logging.getLogger("tailrace.postgres")

_XID = 1 << 32
_PATIENCE = 10.0


Describe = Callable[[Table], Awaitable[Decoder]]


async def read_chunk(
    connection: AsyncConnection[Any],
    path: tuple[str, ...],
    after_key: tuple[str, ...] | None,
    limits: tuple[int, int],
    delivered: deque[int],
    describe: Describe,
) -> Chunk:
    """The rows after `after_key`, up to `limits`: rows, and about so many bytes.

    `delivered` are transactions that the stream gave. A transaction is in the log, and may have
    been streamed, a moment before others see it (with synchronous replication: as long as the
    standby takes). A read in that moment would give rows older than what was delivered, so it
    waits until the snapshot shows them all.
    """
    waited = 0.0
    while True:
        async with connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            if not await _locked(connection, path):
                return Chunk((), None)
            [(snapshot,)] = await fetch(connection, sql.SQL("SELECT pg_current_snapshot()::text"))
            unseen = _unseen(snapshot, delivered)
            if unseen is None:
                table = await one_table(connection, *path)
                if table is None:
                    return Chunk((), None)
                return await _copy(connection, await describe(table), after_key, limits)
        if waited == _PATIENCE:
            log.warning(
                "the backfill of %s waits for transaction %d, which is in the log but not yet"
                " visible (is a synchronous standby missing?)",
                ".".join(path),
                unseen,
            )
        await asyncio.sleep(0.1)
        waited = round(waited + 0.1, 1)


async def _locked(connection: AsyncConnection[Any], path: tuple[str, ...]) -> bool:
    """Whether the table is there; it keeps its shape until the transaction ends.

    What reads a table takes the same lock, but it must be held before the snapshot is taken: to
    an older snapshot a table that ALTER TABLE has rewritten looks empty (manual, 13.6).
    """
    try:
        await connection.execute(
            sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(sql.Identifier(*path))
        )
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return False
    return True


def _unseen(snapshot: str, delivered: deque[int]) -> int | None:
    """A delivered transaction that the snapshot does not show; forgets those it must show."""
    low, high, running = snapshot.split(":")
    xmin, xmax = int(low), int(high)
    hidden = {int(xid) % _XID for xid in running.split(",") if xid}
    late = [xid for xid in delivered if not _before(xid, xmin)]
    delivered.clear()
    delivered.extend(late)
    return next((xid for xid in late if xid in hidden or not _before(xid, xmax)), None)


def _before(xid: int, horizon: int) -> bool:
    """Whether 32-bit `xid` is older than the 64-bit `horizon`, as xids wrap around."""
    return (xid - horizon) % _XID >= _XID // 2


def _query(decoder: Decoder, after_key: tuple[str, ...] | None, limit: int) -> sql.Composed:
    table = decoder.table
    key = [sql.Identifier(name) for name in table.key]
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
    order = sql.SQL(", ").join(key)
    where: sql.Composable = sql.SQL("")
    if after_key is not None:
        values = sql.SQL(", ").join(sql.Literal(text) for text in after_key)
        where = sql.SQL(" WHERE ({}) > ({})").format(order, values)
    return sql.SQL("COPY (SELECT {} FROM ONLY {}{} ORDER BY {} LIMIT {}) TO STDOUT").format(
        columns, sql.Identifier(*table.path), where, order, sql.Literal(limit)
    )


class _EnoughError(Exception):
    """Leaves a COPY early; psycopg cancels it for an exception only."""


async def _copy(
    connection: AsyncConnection[Any],
    decoder: Decoder,
    after_key: tuple[str, ...] | None,
    limits: tuple[int, int],
) -> Chunk:
    limit, room = limits
    query = _query(decoder, after_key, limit)
    rows: list[Change] = []
    size = 0
    line = b""
    with suppress(_EnoughError):
        async with connection.cursor() as cursor, cursor.copy(query) as copy:
            async for block in copy:
                line = bytes(block)
                rows.append(CopiedRow(decoder, line))
                size += len(line)
                if size >= room:
                    raise _EnoughError
    last = _key_of(decoder, line) if len(rows) == limit or size >= room else None
    return Chunk(rows, last, size, decoder.table)


def _key_of(decoder: Decoder, line: bytes) -> tuple[str, ...]:
    fields = line.decode()[:-1].split("\t")
    names = [column.name for column in decoder.table.columns]
    return tuple(unescape(fields[names.index(name)]) for name in decoder.table.key)
