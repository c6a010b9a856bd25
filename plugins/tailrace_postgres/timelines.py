"""Timelines: whether the log of this server is the one in which the saved position lies.

A promoted standby goes on with a log of its own from where it stood. Beyond that point an LSN of
the old primary names other records, so a pipeline that had read further would skip them.
"""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection, sql

from tailrace.event import Position
from tailrace_postgres.catalog import fetch
from tailrace_postgres.lost import lost
from tailrace_postgres.lsn import Place, lsn_text, parse_lsn, timeline_of


async def identify(replication: AsyncConnection[Any]) -> tuple[str, int]:
    """The cluster's identity (``pg:7423…``), and the timeline that the server is on."""
    [(system, timeline, *_)] = await fetch(replication, sql.SQL("IDENTIFY_SYSTEM"))
    return f"pg:{system}", int(timeline)


async def check_timeline(
    replication: AsyncConnection[Any], timeline: int, after: Position, slot: str
) -> None:
    """Raise PositionLostError if `after` lies on a timeline that `timeline` left before it."""
    then = timeline_of(after)
    if then is None or then == timeline:
        return
    fork = await _fork(replication, timeline, then)
    if fork is None or Place.parse(after) > Place(fork):
        where = f"at {lsn_text(fork)}" if fork is not None else "never"
        raise lost(
            f"the saved position {after} lies on timeline {then}, which the server, on timeline"
            f" {timeline}, left {where}: it was promoted without having received everything",
            slot,
            restore="go back to the server that has it; set synchronized_standby_slots there"
            " before the next failover (PostgreSQL 17)",
        )


async def _fork(replication: AsyncConnection[Any], timeline: int, ancestor: int) -> int | None:
    """Where the history of `timeline` leaves `ancestor`; None if it never was on it."""
    if timeline == 1:
        return None
    command = sql.SQL("TIMELINE_HISTORY {}").format(sql.Literal(timeline))
    [(_, content)] = await fetch(replication, command)
    history = content if isinstance(content, str) else content.decode()  # bytea before 15
    for line in history.splitlines():
        if line.startswith(f"{ancestor}\t"):
            return parse_lsn(line.split("\t")[1])
    return None
