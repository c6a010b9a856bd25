"""Transactions that may have written to a table before it was published.

The log is read with the catalog of when it was written: what a transaction wrote before ALTER
PUBLICATION is not in the stream, and before it commits a backfill does not see it. So the first
read of a table waits until whoever was writing to it has ended.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from psycopg import AsyncConnection, sql

from tailrace_postgres.catalog import fetch, is_standby
from tailrace_postgres.tables import Table

log = logging.getLogger("tailrace.postgres")

_PATIENCE = 5.0
_PAUSE = 0.1

# Who has written has a transaction id, locked for as long as it runs or stays prepared.
_WRITING = """
WITH RECURSIVE tree AS (SELECT %s::oid AS relid UNION ALL
  SELECT inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.relid)
SELECT DISTINCT x.transactionid::text
FROM pg_locks l JOIN pg_locks x ON x.virtualtransaction = l.virtualtransaction
     AND x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock' AND x.granted
WHERE l.locktype = 'relation' AND l.granted
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.relation IN (TABLE tree)
      AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                     'AccessExclusiveLock')
"""
_STILL = """
SELECT transactionid::text, pid FROM pg_locks
WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted
      AND transactionid::text = ANY(%s)
"""
# A standby knows which transactions run on the primary, but not what they lock.
_NEWEST = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
_OLDER = """
SELECT 'all that the primary runs', NULL
WHERE pg_snapshot_xmin(pg_current_snapshot()) < %s::text::xid8
"""


async def writers_ended(connection: AsyncConnection[Any], table: Table) -> None:
    """Return once every transaction has ended that holds a write lock on the table now."""
    if await is_standby(connection):
        [(mark,)] = await fetch(connection, sql.SQL(_NEWEST))
        query = _OLDER
    else:
        rows = await fetch(connection, sql.SQL(_WRITING), table.relation.relid)
        mark = [xid for (xid,) in rows]
        query = _STILL
    waited = 0.0
    while running := await fetch(connection, sql.SQL(query), mark):
        if waited == _PATIENCE:
            log.warning(
                "the backfill of %s waits for transactions that may have written to it before it"
                " was published: %s",
                table.label,
                ", ".join(f"{xid} (pid {pid})" if pid else xid for xid, pid in running),
            )
        await asyncio.sleep(_PAUSE)
        waited = round(waited + _PAUSE, 1)
