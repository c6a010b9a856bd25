"""Publication and slot: made where they are missing, checked where they are there."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, sql

from tailrace.errors import ConfigError, PositionLostError, TransientError
from tailrace_postgres.catalog import Slot, Table, fetch, find_slot, published
from tailrace_postgres.errors import translated
from tailrace_postgres.lsn import Place, lsn_text, parse_lsn

log = logging.getLogger("tailrace.postgres")

_T = TypeVar("_T")
_PATIENCE = 5.0


def slot_name(pipeline: str) -> str:
    """The pipeline's name in a slot's alphabet: lower case letters, digits and underscores."""
    return re.sub(r"[^a-z0-9_]", "_", pipeline.lower())[:63]


async def ensure_publication(
    connection: AsyncConnection[Any], name: str, tables: Sequence[Table], *, everything: bool
) -> bool:
    """Make the publication, or add to it the captured tables that it lacks. True if it was made.

    Raises ConfigError with the statement for the owner or a superuser if the role may not.
    """
    have = await published(connection, name)
    if have is None:
        statement = await _create(connection, name, tables, everything=everything)
    else:
        missing = [table for table in tables if table.label not in have]
        if not missing:
            return False
        statement = sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(
            sql.Identifier(name), _list(missing)
        )
    try:
        await connection.execute(statement)
        log.info("%s", statement.as_string(connection))
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigError(
            f"publication {name!r} does not cover the captured tables, and the role may not"
            f" change that: {error.diag.message_primary}",
            mend=f"let their owner or a superuser run: {statement.as_string(connection)};",
        ) from error
    return have is None


async def drop_publication(connection: AsyncConnection[Any], name: str) -> None:
    await connection.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))


async def drop_slot(connection: AsyncConnection[Any], name: str) -> None:
    """Raises TransientError while somebody reads from it."""
    slot = await find_slot(connection, name)
    if slot is None:
        return
    if slot.active_pid is not None:
        raise _in_use(slot, name)
    await connection.execute("SELECT pg_drop_replication_slot(%s)", [name])
    log.info("dropped replication slot %s", name)


async def _create(
    connection: AsyncConnection[Any], name: str, tables: Sequence[Table], *, everything: bool
) -> sql.Composed:
    [(superuser,)] = await fetch(
        connection, sql.SQL("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    )
    if everything and superuser:
        return sql.SQL("CREATE PUBLICATION {} FOR ALL TABLES").format(sql.Identifier(name))
    return sql.SQL("CREATE PUBLICATION {} FOR TABLE {}").format(sql.Identifier(name), _list(tables))


def _list(tables: Sequence[Table]) -> sql.Composed:
    names = [sql.Identifier(t.relation.schema, t.relation.name) for t in tables]
    return sql.SQL(", ").join(names)


async def ensure_slot(
    connection: AsyncConnection[Any],
    replication: AsyncConnection[Any],
    name: str,
    after: Place | None,
    *,
    temporary: bool,
) -> Place:
    """Where to begin: `after`, or the slot's own place for a pipeline's first start.

    Makes the slot only if there is no `after`. Raises PositionLostError if the slot cannot give
    what follows `after`, TransientError while another instance reads from it.
    """
    slot = None if temporary else await find_slot(connection, name)
    if slot is None and (after is None or temporary):
        return await _create_slot(replication, name, temporary=temporary)
    return check_slot(slot, name, after)


def check_slot(slot: Slot | None, name: str, after: Place | None) -> Place:
    """Where a stream from the slot begins; raises as `ensure_slot` does."""
    if slot is None:
        raise PositionLostError(
            f"replication slot {name!r} is gone; what was written since {_text(after)} is lost",
            mend="bring the slot back by promoting a server that has it, or delete the checkpoint"
            " (cdc checkpoint show tells which) and start again with snapshot=initial",
        )
    if slot.plugin != "pgoutput":
        raise ConfigError(
            f"source.slot: slot {name!r} is for the plugin {slot.plugin}, not for pgoutput",
            mend=f"choose another source.slot, or SELECT pg_drop_replication_slot('{name}')",
        )
    if slot.active_pid is not None:
        raise _in_use(slot, name)
    if slot.wal_status == "lost":
        raise PositionLostError(
            f"replication slot {name!r} was invalidated: the server removed WAL that it needed",
            mend=f"SELECT pg_drop_replication_slot('{name}'), delete the checkpoint, start again"
            " with snapshot=initial; raise max_slot_wal_keep_size",
        )
    confirmed = Place(parse_lsn(slot.confirmed)) if slot.confirmed else Place(0)
    if after is None:
        return confirmed
    if confirmed.lsn > after.lsn:
        raise PositionLostError(
            f"replication slot {name!r} stands at {lsn_text(confirmed.lsn)}, ahead of the saved"
            f" position {_text(after)}: it was re-created or moved, and what lies between is lost",
            mend=f"restore the newest checkpoint, or SELECT pg_drop_replication_slot('{name}'),"
            " delete the checkpoint and start again with snapshot=initial",
        )
    return after


def _in_use(slot: Slot, name: str) -> TransientError:
    return TransientError(
        f"replication slot {name!r} is in use by the server process {slot.active_pid}:"
        " another instance of this pipeline is running, or its connection is still ending"
    )


def _text(place: Place | None) -> str:
    return place.position() if place else "the start"


async def _create_slot(replication: AsyncConnection[Any], name: str, *, temporary: bool) -> Place:
    command = sql.SQL("CREATE_REPLICATION_SLOT {}{} LOGICAL pgoutput NOEXPORT_SNAPSHOT").format(
        sql.Identifier(name), sql.SQL(" TEMPORARY" if temporary else "")
    )
    with translated(f"creating replication slot {name!r}"):
        [(_, point, *_)] = await _patiently(fetch(replication, command), name)
    log.info("created replication slot %s at %s", name, point)
    return Place(parse_lsn(point))


async def _patiently(work: Coroutine[Any, Any, _T], name: str) -> _T:
    """The server makes a slot once every transaction that was open has ended; say so."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=_PATIENCE)
        if not task.done():
            log.warning(
                "replication slot %s is made once the transactions that are open now have ended"
                " (SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start)",
                name,
            )
        return await task
    finally:
        task.cancel()
