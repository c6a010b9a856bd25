"""What the server has only so much of: slots, WAL senders, WAL kept, and the oldest transaction."""

from __future__ import annotations

import math
from collections.abc import Sequence

from psycopg import sql

from tailrace.connector import Finding
from tailrace_postgres.check.view import Slot, View, size, some, span

LONG = 300
"""Seconds from which on an open transaction is a long one."""

SETTLED = 60
"""Seconds of statistics from which on a rate means something."""

MUCH = 1 << 30
"""Bytes of WAL from which on a slot holds much."""

_RUNNING = """
SELECT pid, extract(epoch FROM now() - xact_start)::float8 FROM pg_stat_activity
WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
      AND xact_start < now() - %s * interval '1 second' ORDER BY xact_start
"""
_PREPARED = """
SELECT gid, extract(epoch FROM now() - prepared)::float8 FROM pg_prepared_xacts
WHERE prepared < now() - %s * interval '1 second' ORDER BY prepared
"""
_HIDDEN = (
    "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND xact_start IS NULL"
)
_SOON = 3600
_DAY = 86_400
_RESERVE = 10


async def slots(view: View) -> list[Finding]:
    limit = view.settings["max_replication_slots"].number
    names = [slot.slot_name for slot in view.slots]
    return [_free("max_replication_slots", limit, names, needed=view.slot is None)]


async def senders(view: View) -> list[Finding]:
    limit = view.settings["max_wal_senders"].number
    used = await view.rows(
        "SELECT coalesce(nullif(application_name, ''), 'process ' || pid)"
        " FROM pg_stat_replication ORDER BY pid"
    )
    running = view.slot is not None and view.slot.active_pid is not None
    return [_free("max_wal_senders", limit, [name for (name,) in used], needed=not running)]


def _free(setting: str, limit: int, used: Sequence[str], *, needed: bool) -> Finding:
    free = limit - len(used)
    if free > 0 or not needed:
        return Finding("ok", setting, f"{max(0, free)} of {limit} free")
    by = f": {some(used)}" if used else ""
    mend = f"ALTER SYSTEM SET {setting} = {limit + _RESERVE}; -- then restart the server"
    return Finding("error", setting, f"none of {limit} free{by}", mend)


async def kept_wal(view: View) -> list[Finding]:
    """What becomes of the slot, or of the server's disk, while the pipeline stands still."""
    name = "max_slot_wal_keep_size"
    limit = view.settings[name]
    if limit.number < 0:
        text = "unlimited: a pipeline that stops for long fills the server's disk"
        return [Finding("warning", name, text, _keep("50GB"))]
    text = f"{limit.text}: a pipeline that falls further behind loses its place"
    rate = await _wal_rate(view)
    if not rate:
        return [Finding("ok", name, text)]
    lasts = (limit.number << 20) / rate
    text += f"; at the average rate, {size(rate)} of WAL a second, that is after {span(lasts)}"
    if lasts >= _SOON:
        return [Finding("ok", name, text)]
    return [Finding("warning", name, text, _keep(f"{math.ceil(rate * _DAY / (1 << 30))}GB"))]


def _keep(value: str) -> str:
    return f"ALTER SYSTEM SET max_slot_wal_keep_size = '{value}'; SELECT pg_reload_conf();"


async def _wal_rate(view: View) -> float:
    """Bytes of WAL a second since the server's statistics were reset; 0 if that is too new."""
    [(rate,)] = await view.rows(
        "SELECT coalesce(sum(wal_bytes / extract(epoch FROM now() - stats_reset)), 0)::float8"
        " FROM pg_stat_wal WHERE stats_reset < now() - %s * interval '1 second'",
        SETTLED,
    )
    return float(rate)


async def other_slots(view: View) -> list[Finding]:
    """Slots that nobody reads from, and that hold what the disk needs."""
    idle = [s for s in view.slots if s.slot_name != view.names.slot and s.active_pid is None]
    return [_unused(slot, view) for slot in idle if _holds_much(slot)]


def _holds_much(slot: Slot) -> bool:
    return slot.wal_status in ("unreserved", "lost") or (slot.held or 0) > MUCH


def _unused(slot: Slot, view: View) -> Finding:
    since = f" since {slot.inactive_since[:16]}" if slot.inactive_since else ""
    text = f"nobody reads from it{since}, and it holds {size(slot.held or 0)} of WAL"
    if slot.wal_status == "lost":
        text = "it has been invalidated and serves nobody any more"
    mend = view.statement("SELECT pg_drop_replication_slot({});", sql.Literal(slot.slot_name))
    return Finding("warning", f"slot {slot.slot_name}", text, mend)


async def transactions(view: View) -> list[Finding]:
    """Transactions that a new slot waits for, and that keep WAL and dead rows."""
    findings = [
        *await _long(view, "process {}", "SELECT pg_terminate_backend({});", _RUNNING),
        *await _long(view, "prepared as {}", "ROLLBACK PREPARED {};", _PREPARED),
    ]
    if findings:
        return findings
    [(hidden,)] = await view.rows(_HIDDEN)
    text = f"none has been open for {span(LONG)}"
    if hidden:
        text = f"{hidden} of other roles are open; {view.role} may not see for how long"
    return [Finding("ok", "transactions", text)]


async def _long(view: View, who: str, ending: str, query: str) -> list[Finding]:
    return [
        Finding(
            "warning",
            "transactions",
            f"{who.format(name)}: open for {span(age)}; a new slot waits for its end, and WAL is"
            " kept meanwhile",
            view.statement(ending, sql.Literal(name)),
        )
        for name, age in await view.rows(query, LONG)
    ]
