"""What every look at the server needs: the connection, who we are, what is captured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct, convert
from psycopg import AsyncConnection, sql

from tailrace.patterns import Patterns
from tailrace_postgres.catalog import fetch
from tailrace_postgres.config import PostgresConfig
from tailrace_postgres.tables import Table
from tailrace_postgres.upstream import Publisher

SETTINGS = (
    "idle_replication_slot_timeout",
    "logical_decoding_work_mem",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "statement_timeout",
    "wal_level",
    "wal_sender_timeout",
)

_NAMED = 5


class Names(Struct, frozen=True):
    """The pipeline and what is called after it upstream; the tables it captures and backfills."""

    pipeline: str
    slot: str
    publisher: Publisher
    backfill: Patterns | None
    config: PostgresConfig

    @property
    def publication(self) -> str:
        return self.publisher.name

    @property
    def patterns(self) -> Patterns:
        return self.publisher.patterns


class Setting(Struct, frozen=True):
    """A server setting: `value` in its base unit, `text` as the server shows it."""

    value: str
    text: str

    @property
    def number(self) -> int:
        return int(self.value)


class Slot(Struct, frozen=True):
    """A row of pg_replication_slots; what the server's version does not have keeps its default.

    `held` is how much WAL it keeps, in bytes; None if it keeps none any more.
    """

    slot_name: str
    plugin: str | None
    database: str | None
    active_pid: int | None
    wal_status: str | None
    safe_wal_size: int | None
    held: int | None
    two_phase: bool = False
    failover: bool | None = None
    invalidation_reason: str | None = None
    inactive_since: str | None = None


class View(Struct, frozen=True):
    """The server as one role sees it. `standby` is a server in recovery."""

    connection: AsyncConnection[Any]
    names: Names
    standby: bool
    role: str
    superuser: bool
    settings: dict[str, Setting]
    slots: Sequence[Slot]
    tables: Sequence[Table]

    @property
    def version(self) -> int:
        return self.connection.info.server_version

    @property
    def slot(self) -> Slot | None:
        """The pipeline's, if it is there."""
        return next((s for s in self.slots if s.slot_name == self.names.slot), None)

    @property
    def backfilled(self) -> list[Table]:
        """The captured tables whose rows are read at the start."""
        wanted = self.names.backfill
        return [table for table in self.tables if wanted and wanted.matches(table.label)]

    async def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return await fetch(self.connection, sql.SQL(query), *values)

    def statement(self, template: str, *parts: sql.Composable) -> str:
        """SQL to be copied: `template` with the quoted `parts` in place of each ``{}``."""
        return sql.SQL(template).format(*parts).as_string(self.connection)


_SERVER = """
SELECT pg_is_in_recovery(), current_user::text,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
"""
_SETTINGS = "SELECT name, setting, current_setting(name) FROM pg_settings WHERE name = ANY(%s)"
_SLOTS = """
SELECT to_jsonb(s) || jsonb_build_object('held', pg_wal_lsn_diff(
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
    s.restart_lsn)::bigint)
FROM pg_replication_slots s ORDER BY s.active, s.slot_name
"""


async def look(connection: AsyncConnection[Any], names: Names) -> View:
    [(standby, role, superuser)] = await fetch(connection, sql.SQL(_SERVER))
    settings = await fetch(connection, sql.SQL(_SETTINGS), list(SETTINGS))
    slots = await fetch(connection, sql.SQL(_SLOTS))
    return View(
        connection,
        names,
        standby,
        role,
        superuser,
        {name: Setting(value, text) for name, value, text in settings},
        [convert(slot, Slot) for (slot,) in slots],
        await names.publisher.tables(connection),
    )


def identifier(table: Table) -> sql.Identifier:
    return sql.Identifier(table.relation.schema, table.relation.name)


def listed(tables: Iterable[Table]) -> sql.Composed:
    return sql.SQL(", ").join(identifier(table) for table in tables)


def some(labels: Sequence[str]) -> str:
    """The first few of `labels`, and how many more there are."""
    named = ", ".join(labels[:_NAMED])
    more = len(labels) - _NAMED
    return f"{named} and {more} more" if more > 0 else named


def size(count: float) -> str:
    """Bytes for a person, in the server's units: ``64 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 10_240:
            return f"{count:,.0f} {unit}"
        count /= 1024
    return f"{count:,.0f} TB"


def span(seconds: float) -> str:
    """``90 s``, ``15 min``, ``5 h``, ``3 days``."""
    for unit, length in (("s", 1), ("min", 60), ("h", 3600)):
        if seconds < 120 * length or (unit == "h" and seconds < 48 * length):
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"
