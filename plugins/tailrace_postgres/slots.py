"""The replication slot: made where it is missing, checked against the saved position."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, NamedTuple, TypeVar

from msgspec import Struct
from psycopg import AsyncConnection, sql

from tailrace.errors import ConfigError, TransientError
from tailrace_postgres.catalog import fetch, is_standby
from tailrace_postgres.config import PostgresConfig
from tailrace_postgres.errors import translated
from tailrace_postgres.lost import lost
from tailrace_postgres.lsn import Place, lsn_text, parse_lsn

log = logging.getLogger("tailrace.postgres")

_T = TypeVar("_T")
_PATIENCE = 5.0

READS_STANDBYS = 160_000
"""The first version whose standbys decode their log."""

_INVALIDATED = {
    "wal_removed": "the server removed WAL that it needed; raise max_slot_wal_keep_size",
    "rows_removed": "the primary removed rows that decoding on this standby needed; set"
    " hot_standby_feedback = on and primary_slot_name here",
    "wal_level_insufficient": "the primary's wal_level was lowered",
    "idle_timeout": "nobody read it for idle_replication_slot_timeout",
}

_WAITS = (
    "replication slot %s is made once the transactions that are open now have ended"
    " (SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start)"
)
_WAITS_ON_STANDBY = (
    "replication slot %s is made once the primary has logged which transactions run; on an idle"
    " primary run SELECT pg_log_standby_snapshot()"
)


class Slot(Struct, frozen=True):
    """A row of pg_replication_slots. `invalidated` is why nothing can be read from it any more."""

    plugin: str
    database: str
    confirmed: Place
    active_pid: int | None
    invalidated: str | None
    two_phase: bool
    failover: bool
    synced: bool


class Start(NamedTuple):
    """Where to begin, and whether the slot was made just now."""

    place: Place
    made: bool


async def find_slot(connection: AsyncConnection[Any], name: str) -> Slot | None:
    query = "SELECT to_jsonb(s) FROM pg_replication_slots s WHERE slot_name = %s"
    rows = await fetch(connection, sql.SQL(query), name)
    if not rows:
        return None
    [(row,)] = rows  # its columns depend on the server's version
    reason = row.get("invalidation_reason") or ("rows_removed" if row.get("conflicting") else None)
    return Slot(
        row["plugin"] or "physical replication",
        row["database"] or "",
        Place(parse_lsn(row["confirmed_flush_lsn"] or "0/0")),
        row["active_pid"],
        reason or ("wal_removed" if row["wal_status"] == "lost" else None),
        row["two_phase"],
        row.get("failover", False),
        row.get("synced", False),
    )


async def ensure_slot(
    connection: AsyncConnection[Any],
    replication: AsyncConnection[Any],
    name: str,
    config: PostgresConfig,
    after: Place | None,
) -> Start:
    """Begin after `after`, or at the slot's own place for a pipeline's first start.

    Makes the slot only if there is no `after`. Raises PositionLostError if the slot cannot give
    what follows `after`, TransientError while another instance reads from it.
    """
    slot = None if config.temporary else await find_slot(connection, name)
    if slot is None and after is None:
        return Start(await _create(connection, replication, name, config), made=True)
    slot = await check_slot(connection, slot, name, after)
    if config.failover and not slot.failover:
        log.warning(
            "replication slot %s is not kept by standbys; in a replication connection (psql"
            ' "… replication=database") run: ALTER_REPLICATION_SLOT "%s" (FAILOVER true);',
            name,
            name,
        )
    return Start(slot.confirmed if after is None else after, made=False)


async def check_slot(
    connection: AsyncConnection[Any], slot: Slot | None, name: str, after: Place | None
) -> Slot:
    """The slot, which must be there and give what follows `after`; raises as `ensure_slot`."""
    if slot is None:
        raise lost(
            f"replication slot {name!r} is gone; what was written since {_text(after)} is lost",
            name,
            restore="point source.dsn at a server that has the slot, or promote one",
            gone=True,
        )
    await _check_use(connection, slot, name)
    if after is not None:
        await _check_place(connection, slot, name, after)
    return slot


async def _check_use(connection: AsyncConnection[Any], slot: Slot, name: str) -> None:
    """Whether it is a slot that can be read here and now."""
    if slot.plugin != "pgoutput":
        raise _unfit(name, f"is for {slot.plugin}, not for pgoutput")
    if slot.database != connection.info.dbname:
        raise _unfit(name, f"belongs to the database {slot.database!r}")
    if slot.two_phase:
        raise _unfit(name, "has two_phase on, and transactions are delivered when they commit")
    if slot.active_pid is not None:
        raise _in_use(slot, name)
    if slot.synced and await is_standby(connection):
        raise TransientError(
            f"replication slot {name!r} is the standby's copy of the primary's, and can be read"
            " once this server is promoted"
        )
    if slot.invalidated:
        raise lost(
            f"replication slot {name!r} was invalidated: "
            + _INVALIDATED.get(slot.invalidated, slot.invalidated),
            name,
            restore="promote a server that still has the slot",
        )


def _in_use(slot: Slot, name: str) -> TransientError:
    return TransientError(
        f"replication slot {name!r} is in use by the server process {slot.active_pid}:"
        " another instance of this pipeline is running, or its connection is still ending"
    )


def _unfit(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"source.slot: slot {name!r} {why}",
        mend=f"choose another source.slot, or SELECT pg_drop_replication_slot('{name}')",
    )


async def _check_place(
    connection: AsyncConnection[Any], slot: Slot, name: str, after: Place
) -> None:
    """Whether what follows `after` can still be had.

    The slot never confirms more than was saved, and making one writes to the log: a slot that was
    dropped and made again always stands beyond what was saved before.
    """
    if slot.confirmed.lsn > after.lsn:
        raise lost(
            f"replication slot {name!r} stands at {_text(slot.confirmed)}, ahead of the saved"
            f" position {_text(after)}: it was re-created or moved, or the checkpoint is an old"
            " one; what lies between is lost",
            name,
            restore="restore the newest checkpoint",
        )
    end = await log_end(connection)
    if after.lsn <= end:
        return
    if await is_standby(connection):
        raise TransientError(
            f"the standby has replayed the log to {lsn_text(end)}, and not yet to the saved"
            f" position {_text(after)}"
        )
    raise lost(
        f"the server's log ends at {lsn_text(end)}, before the saved position {_text(after)}: it"
        " is an older copy, or a standby that was promoted without having received everything",
        name,
        restore="point source.dsn at the server whose log reaches the position",
    )


async def log_end(connection: AsyncConnection[Any]) -> int:
    """Where the log ends that can be read now: on a standby, what it has replayed."""
    query = (
        "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
        " ELSE pg_current_wal_insert_lsn() END::text"
    )
    [(lsn,)] = await fetch(connection, sql.SQL(query))
    return parse_lsn(lsn)


def _text(place: Place | None) -> str:
    return place.position() if place else "the start"


def check_failover(config: PostgresConfig, server_version: int) -> None:
    if config.failover and server_version < 170_000:
        raise ConfigError(
            f"source.failover needs PostgreSQL 17 or newer, and this is {server_version // 10_000}",
            mend="leave source.failover out",
        )


def slot_missing(name: str, config: PostgresConfig) -> ConfigError:
    """Says how to make the slot by hand."""
    more = ", false, false, true" if config.failover else ""
    return ConfigError(
        f"replication slot {name!r} does not exist, and source.create is false",
        mend=f"run: SELECT pg_create_logical_replication_slot('{name}', 'pgoutput'{more});",
    )


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
    connection: AsyncConnection[Any],
    replication: AsyncConnection[Any],
    name: str,
    config: PostgresConfig,
) -> Place:
    if not config.create and not config.temporary:
        raise slot_missing(name, config)
    standby = await is_standby(connection)
    if config.failover and standby:
        raise ConfigError(
            "source.failover: standbys keep copies of the primary's slots, not of a standby's",
            mend="leave source.failover out, or name the primary in source.dsn",
        )
    options = "(SNAPSHOT 'nothing', FAILOVER true)" if config.failover else "NOEXPORT_SNAPSHOT"
    temporary = " TEMPORARY" if config.temporary else ""
    command = sql.SQL(f"CREATE_REPLICATION_SLOT {{}}{temporary} LOGICAL pgoutput {options}")
    with translated(f"creating replication slot {name!r}"):
        work = fetch(replication, command.format(sql.Identifier(name)))
        [(_, point, *_)] = await _patiently(work, name, standby=standby)
    log.info("created replication slot %s at %s", name, point)
    return Place(parse_lsn(point))


async def _patiently(work: Coroutine[Any, Any, _T], name: str, *, standby: bool) -> _T:
    """Say what the server waits for before it makes a slot."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=_PATIENCE)
        if not task.done():
            log.warning(_WAITS_ON_STANDBY if standby else _WAITS, name)
        return await task
    finally:
        task.cancel()
