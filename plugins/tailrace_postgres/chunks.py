"""Reading existing rows for the backfill: one COPY of a key range, or of a whole table."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from tailrace.connector import Chunk, Reading
from tailrace.event import Transaction
from tailrace.row import Change
from tailrace.schema import TableSchema
from tailrace_postgres.catalog import FIRST_USER_OID, IN_FULL, fetch
from tailrace_postgres.changes import CopiedRow
from tailrace_postgres.copying import copied
from tailrace_postgres.decoder import Decoder, unescape
from tailrace_postgres.errors import translated
from tailrace_postgres.tables import Table

log = logging.getLogger("tailrace.postgres")

_XID = 1 << 32
_PATIENCE = 10.0


Find = Callable[[AsyncConnection[Any], tuple[str, ...]], Awaitable[Table | None]]
Describe = Callable[[Table], Awaitable[Decoder]]


async def read_chunk(
    connection: AsyncConnection[Any],
    path: tuple[str, ...],
    after_key: tuple[str, ...] | None,
    where: str | None,
    limits: tuple[int, int],
    delivered: deque[int],
    find: Find,
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
                table = await find(connection, path)
                if table is None:
                    return Chunk((), None)
                decoder = await describe(table)
                await _find_operators(connection, table, decoder.table.key)
                return await _copy(connection, table, decoder, where, after_key, limits)
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
    """Whether the table is there; it, partitions too, keeps its shape until the transaction ends.

    What reads a table takes the same lock, but it must be held before the snapshot is taken: to
    an older snapshot a table that ALTER TABLE has rewritten looks empty (manual, 13.6).
    """
    try:
        await connection.execute(
            sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(sql.Identifier(*path))
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


def _query(
    table: Table,
    decoder: Decoder,
    where: str | None,
    after_key: tuple[str, ...] | None = None,
    limit: int = 0,
) -> sql.Composed:
    key = sql.SQL(", ").join(sql.Identifier(name) for name in decoder.table.key)
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in decoder.table.columns)
    conditions: list[sql.Composable] = [IN_FULL]
    conditions += [condition_of(given) for given in (table.where, where) if given]
    if after_key is not None:
        values = sql.SQL(", ").join(sql.Literal(text) for text in after_key)
        conditions.append(sql.SQL("({}) > ({})").format(key, values))
    query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
        columns, table.reference, sql.SQL(" AND ").join(conditions)
    )
    if limit:
        query += sql.SQL(" ORDER BY {} LIMIT {}").format(key, sql.Literal(limit))
    return sql.SQL("COPY ({}) TO STDOUT").format(query)


_OPERATORS = """
SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''),
                  string_agg(DISTINCT o.oprnamespace::regnamespace::text, ', ')), true)
FROM pg_index i CROSS JOIN unnest(i.indclass::oid[]) k(opclass)
JOIN pg_opclass c ON c.oid = k.opclass
JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amopstrategy = 5
JOIN pg_operator o ON o.oid = a.amopopr
WHERE i.indrelid = %s::bigint::oid AND (i.indisprimary OR i.indisreplident)
      AND o.oprnamespace <> 'pg_catalog'::regnamespace
"""


async def _find_operators(
    connection: AsyncConnection[Any], table: Table, key: tuple[str, ...]
) -> None:
    """Have keys compared by their own types' operators, wherever an extension's (citext) are.

    Where the search path does not lead to them, text's would be taken, which order otherwise.
    """
    types = [column.oid for column in table.relation.columns if column.name in key]
    if any(oid >= FIRST_USER_OID for oid in types):
        await connection.execute(_OPERATORS, (table.relation.relid,))


def condition_of(where: str) -> sql.Composable:
    """A condition of the user's for a query, on lines of its own: it may end with a comment."""
    return sql.SQL("(\n{}\n)").format(sql.SQL(where))


async def _copy(
    connection: AsyncConnection[Any],
    table: Table,
    decoder: Decoder,
    where: str | None,
    after_key: tuple[str, ...] | None,
    limits: tuple[int, int],
) -> Chunk:
    limit, room = limits
    rows: list[Change] = []
    size = 0
    line = b""
    query = _query(table, decoder, where, after_key, limit)
    async with aclosing(copied(connection, query)) as blocks:
        async for lines in blocks:
            for line in lines:
                rows.append(CopiedRow(decoder, line))
                size += len(line)
                if size >= room:
                    break
            if size >= room:
                break
    last = _key_of(decoder, line) if len(rows) == limit or size >= room else None
    return Chunk(rows, last, size, decoder.table)


def _key_of(decoder: Decoder, line: bytes) -> tuple[str, ...]:
    fields = line.decode()[:-1].split("\t")
    names = [column.name for column in decoder.table.columns]
    return tuple(unescape(fields[names.index(name)]) for name in decoder.table.key)


class OneSnapshot(Reading):
    """Tables without a key in one REPEATABLE READ transaction, which `reading` opens.

    A transaction of the stream is in it or not by its id, so no position need be known. A standby
    does not say which are running: there what is younger than the oldest of them counts as not
    in it, and may be told twice.
    """

    def __init__(
        self, connection: AsyncConnection[Any], snapshot: str, find: Find, describe: Describe
    ) -> None:
        self._connection = connection
        self._find = find
        self._describe = describe
        low, high, running = snapshot.split(":")
        self._xmin, self._xmax = int(low), int(high)
        self._running = {int(xid) % _XID for xid in running.split(",") if xid}

    def shows(self, transaction: Transaction) -> bool:
        assert transaction.txid is not None
        xid = int(transaction.txid)
        return _before(xid, self._xmin) or (_before(xid, self._xmax) and xid not in self._running)

    async def chunks(
        self, table: TableSchema, where: str | None, limit: int
    ) -> AsyncGenerator[Chunk, None]:
        with translated(f"reading {table.label} for the backfill"):
            found = await self._find(self._connection, table.path)
            if found is None:
                return
            decoder = await self._describe(found)
            await self._connection.execute("SET LOCAL search_path TO DEFAULT")  # undoes IN_FULL
            query = _query(found, decoder, where)
            async with aclosing(copied(self._connection, query)) as blocks:
                async for lines in blocks:
                    for low in range(0, len(lines), limit):
                        part = lines[low : low + limit]
                        rows = [CopiedRow(decoder, line) for line in part]
                        yield Chunk(rows, None, sum(map(len, part)), decoder.table)


_SNAPSHOT = """
SELECT CASE WHEN pg_is_in_recovery() THEN concat(pg_snapshot_xmin(s), ':', pg_snapshot_xmin(s), ':')
       ELSE s::text END FROM pg_current_snapshot() s
"""


@asynccontextmanager
async def one_snapshot(
    connection: AsyncConnection[Any],
    paths: Sequence[tuple[str, ...]],
    find: Find,
    describe: Describe,
) -> AsyncGenerator[OneSnapshot, None]:
    """All rows of the tables at `paths` as of now; the connection is closed at the end."""
    try:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        await connection.execute("SET LOCAL synchronize_seqscans = off")  # else rows turn around
        for path in paths:
            await _locked(connection, path)
        [(snapshot,)] = await fetch(connection, sql.SQL(_SNAPSHOT))
        yield OneSnapshot(connection, snapshot, find, describe)
    finally:
        await connection.close()


async def estimated(connection: AsyncConnection[Any], table: Table, where: str) -> int:
    """The planner's word on how many rows fulfil `where`.

    Raises psycopg.Error for a condition that is none. Prepared, so that it is one statement.
    """
    query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {} WHERE {}").format(
        table.reference, condition_of(where)
    )
    cursor = await connection.execute(query, prepare=True)
    [(plans,)] = await cursor.fetchall()
    return int(plans[0]["Plan"]["Plan Rows"])
