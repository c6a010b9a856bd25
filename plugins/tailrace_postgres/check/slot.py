"""The pipeline's slot: whether it is ours to read, and what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import AsyncConnection, sql

from tailrace.connector import Finding
from tailrace_postgres.check.capacity import MUCH
from tailrace_postgres.check.view import Names, Slot, View, size
from tailrace_postgres.lsn import Place
from tailrace_postgres.slots import check_slot, find_slot, slot_missing

_CUT_SOON = 10  # of the WAL that the server keeps, a tenth is left
_ALTERS_SLOTS = 180_000
_BEGIN_ANEW = (
    "SELECT pg_drop_replication_slot('{}'); -- then delete the checkpoint and start with"
    " snapshot=initial"
)


async def slot(view: View) -> list[Finding]:
    found = view.slot
    config = view.names.config
    if config.temporary:
        return []
    if found is None and not config.create:
        missing = slot_missing(view.names.slot, config)
        return [
            Finding("error", "slot", missing.message, (missing.mend or "").removeprefix("run: "))
        ]
    if found is None:
        return [Finding("ok", "slot", f"{view.names.slot} is made at the first start")]
    return [
        *_identity(found, view),
        await _use(found, view),
        *_wal(found, view),
        *_options(found, view),
    ]


def _identity(found: Slot, view: View) -> Iterator[Finding]:
    drop = view.statement("SELECT pg_drop_replication_slot({});", sql.Literal(found.slot_name))
    mend = f"set another source.slot, or: {drop}"
    if found.plugin != "pgoutput":
        kind = f"for the plugin {found.plugin}" if found.plugin else "for physical replication"
        yield Finding("error", "slot", f"{found.slot_name} is {kind}, not for pgoutput", mend)
    elif found.database != view.connection.info.dbname:
        text = f"{found.slot_name} is of the database {found.database}"
        yield Finding("error", "slot", text, mend)


async def _use(found: Slot, view: View) -> Finding:
    if found.active_pid is None:
        return Finding("ok", "slot", f"{found.slot_name} is there, and nobody reads from it")
    rows = await view.rows(
        "SELECT application_name FROM pg_stat_activity WHERE pid = %s", found.active_pid
    )
    reader = rows[0][0] if rows else None
    where = f"server process {found.active_pid}"
    if reader is None:
        return Finding("ok", "slot", f"{found.slot_name} is in use ({where}), by whom is hidden")
    if reader == f"cdc {view.names.pipeline}"[:63]:
        return Finding("ok", "slot", f"{found.slot_name} is read by the pipeline ({where})")
    text = f"{found.slot_name} is read by {reader or 'something'} ({where}): the pipeline waits"
    return Finding("warning", "slot", text, f"SELECT pg_terminate_backend({found.active_pid});")


def _wal(found: Slot, view: View) -> Iterator[Finding]:
    name = "retained WAL"
    drop = view.statement("SELECT pg_drop_replication_slot({});", sql.Literal(found.slot_name))
    if found.wal_status == "lost" or found.invalidation_reason:
        why = found.invalidation_reason or "the server removed WAL that it needs"
        text = f"{found.slot_name} was invalidated ({why}): the place in the log is lost"
        yield Finding("error", name, text, _BEGIN_ANEW.format(found.slot_name))
        return
    held = found.held or 0
    left = found.safe_wal_size
    if found.wal_status == "unreserved" or (left is not None and left * _CUT_SOON < held):
        text = f"{size(held)}; {size(left or 0)} more and the slot is invalidated"
        yield Finding("warning", name, text, "start the pipeline, or let it catch up")
    elif held > MUCH and found.active_pid is None:
        text = f"{size(held)}, and more as long as the pipeline stands still"
        yield Finding("warning", name, text, "start the pipeline, or give it up: " + drop)
    else:
        yield Finding("ok", name, f"{size(held)}, {found.wal_status}")


def _options(found: Slot, view: View) -> Iterator[Finding]:
    if found.two_phase:
        text = "two-phase: transactions would come when they are prepared, which is refused"
        mend = f"SELECT pg_drop_replication_slot('{found.slot_name}');"
        if view.version >= _ALTERS_SLOTS:
            command = f"ALTER_REPLICATION_SLOT {found.slot_name} (TWO_PHASE false);"
            mend = (
                f'psql "dbname={view.connection.info.dbname} replication=database" -c "{command}"'
            )
        yield Finding("error", "two_phase", text, mend)
    if found.failover is not None:
        yield _failover(found, view)


def _failover(found: Slot, view: View) -> Finding:
    if found.failover:
        return Finding("ok", "failover", "on: standbys have the slot too")
    text = "off: a standby lacks the slot"
    if not view.names.config.failover:
        return Finding("ok", "failover", text)
    command = f"ALTER_REPLICATION_SLOT {found.slot_name} (FAILOVER true);"
    mend = f'psql "dbname={view.connection.info.dbname} replication=database" -c "{command}"'
    return Finding("warning", "failover", text, mend)


async def place(connection: AsyncConnection[Any], names: Names, saved: Place) -> Finding:
    """Whether the slot still gives what follows `saved`. Raises PositionLostError if not."""
    found = await find_slot(connection, names.slot)
    if found is not None and found.active_pid is not None:
        text = f"{saved.position()} is saved; the slot is in use, so it moves on by itself"
        return Finding("ok", "position", text)
    await check_slot(connection, found, names.slot, saved)
    await names.publisher.check_presence(connection, names.slot)
    return Finding("ok", "position", f"{saved.position()}: the slot has all that follows it")
