"""``cdc check`` of the source: everything about the server that will bite, each with its mend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from tailrace.connector import Finding, findings_of
from tailrace.errors import TailraceError
from tailrace_postgres.catalog import fetch
from tailrace_postgres.check import capacity, publication, rights, server, slot, tables
from tailrace_postgres.check.slot import place
from tailrace_postgres.check.view import Names, View, look
from tailrace_postgres.connecting import session
from tailrace_postgres.errors import translate, translated

__all__ = ["Names", "examine", "place"]

_LOOKS: tuple[Callable[[View], Awaitable[list[Finding]]], ...] = (
    server.server,
    server.encryption,
    server.encoding,
    server.settings,
    capacity.slots,
    capacity.senders,
    capacity.kept_wal,
    rights.replication,
    rights.reading,
    tables.captured,
    tables.identities,
    publication.publication,
    slot.slot,
    capacity.other_slots,
    capacity.transactions,
)
_BLOCKING = ("server", "wal_level", "max_wal_senders", "role")


async def examine(connection: AsyncConnection[Any], info: str, names: Names) -> list[Finding]:
    """All that there is to say; `info` is for the replication connection. Only reads."""
    with translated("looking at the server"):
        view = await look(connection, names)
    findings: list[Finding] = []
    for one in _LOOKS:
        findings += await _looked(one, view)
    if not any(f.level == "error" and f.subject in _BLOCKING for f in findings):
        findings += await _replication(info)
    return findings


async def _looked(one: Callable[[View], Awaitable[list[Finding]]], view: View) -> list[Finding]:
    """What the role may not see, or an old server does not have, does not hide the rest."""
    try:
        return await one(view)
    except psycopg.Error as error:
        if view.connection.broken:
            raise translate(error, "looking at the server") from error
        subject = getattr(one, "__name__", "check").replace("_", " ")
        text = translate(error, f"{subject} could not be looked at").message
        mend = view.statement("GRANT pg_monitor TO {};", sql.Identifier(view.role))
        return [Finding("warning", subject, text, mend)]


async def _replication(info: str) -> list[Finding]:
    """Proof that pg_hba.conf and whatever stands between let a replication connection through."""
    subject = "replication"
    try:
        with translated("opening a replication connection", opening=True):
            connection = await session(info, replication=True)
            try:
                [(system, *_)] = await fetch(connection, sql.SQL("IDENTIFY_SYSTEM"))
            finally:
                await connection.close()
    except TailraceError as error:
        return findings_of(error, subject)
    return [Finding("ok", subject, f"connected to the system {system}")]
