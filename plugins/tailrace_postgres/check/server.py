"""The server itself: its version, its settings, and how we reach it."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from tailrace.connector import Finding
from tailrace_postgres.check.view import Setting, View
from tailrace_postgres.connecting import exposure
from tailrace_postgres.slots import READS_STANDBYS

_SHORT_SENDER = 10_000  # ms
_SHORT_STATEMENT = 60_000  # ms
_SMALL_MEMORY = 16 << 10  # kB
_SHORT_IDLE = 24 * 3600  # s


async def server(view: View) -> list[Finding]:
    version = view.connection.info.parameter_status("server_version")
    if view.standby and view.version >= READS_STANDBYS:
        return [Finding("ok", "server", f"PostgreSQL {version}, a standby")]
    if view.standby:
        mend = "name the primary in source.dsn"
        return [Finding("error", "server", f"PostgreSQL {version}, a standby", mend)]
    return [Finding("ok", "server", f"PostgreSQL {version}, a primary")]


async def encryption(view: View) -> list[Finding]:
    danger = exposure(view.connection)
    if danger:
        return [Finding("warning", "TLS", danger, "set sslmode=verify-full in source.dsn")]
    if view.connection.pgconn.ssl_in_use:
        text = f"the connection to {view.connection.info.host} is encrypted"
        return [Finding("ok", "TLS", text)]
    return [Finding("ok", "TLS", "not used; the server is on this machine")]


async def encoding(view: View) -> list[Finding]:
    found = view.connection.info.parameter_status("server_encoding")
    if found != "SQL_ASCII":
        return [Finding("ok", "encoding", str(found))]
    text = "SQL_ASCII: nobody knows what the bytes mean, and what is not UTF-8 stops the pipeline"
    mend = "pg_dump the database into one made with: createdb -E UTF8 -T template0 NAME"
    return [Finding("warning", "encoding", text, mend)]


async def settings(view: View) -> list[Finding]:
    found = view.settings
    findings = [
        _wal_level(found["wal_level"]),
        _wal_sender_timeout(found["wal_sender_timeout"], view),
        _logical_decoding_work_mem(found["logical_decoding_work_mem"], view),
        *_statement_timeout(found["statement_timeout"], view),
    ]
    idle = found.get("idle_replication_slot_timeout")
    return findings if idle is None else [*findings, _idle_slots(idle)]


def _wal_level(setting: Setting) -> Finding:
    if setting.value == "logical":
        return Finding("ok", "wal_level", "logical")
    mend = "ALTER SYSTEM SET wal_level = logical; -- then restart the server"
    return Finding("error", "wal_level", f"{setting.text}, not logical", mend)


def _wal_sender_timeout(setting: Setting, view: View) -> Finding:
    name = "wal_sender_timeout"
    if setting.number >= _SHORT_SENDER:
        return Finding("ok", name, setting.text)
    text = f"{setting.text}: a short stall of ours, and the server hangs up"
    if not setting.number:
        text = "0: the slot stays in use for hours by a connection that died without a word"
    return Finding("warning", name, text, _for_the_role(view, name, "60s"))


def _logical_decoding_work_mem(setting: Setting, view: View) -> Finding:
    name = "logical_decoding_work_mem"
    if setting.number >= _SMALL_MEMORY:
        return Finding("ok", name, setting.text)
    text = f"{setting.text}: the server writes every larger transaction to disk to decode it"
    return Finding("warning", name, text, _for_the_role(view, name, "64MB"))


def _statement_timeout(setting: Setting, view: View) -> Iterator[Finding]:
    if 0 < setting.number < _SHORT_STATEMENT and view.backfilled:
        name = "statement_timeout"
        text = f"{setting.text}: a slow read of the backfill is cut off, and tried again for ever"
        yield Finding("warning", name, text, _for_the_role(view, name, "0"))


def _for_the_role(view: View, name: str, value: str) -> str:
    """Set where it holds for us alone; every role may do that for itself."""
    role = sql.Identifier(view.role)
    return view.statement(f"ALTER ROLE {{}} SET {name} = {{}};", role, sql.Literal(value))


def _idle_slots(setting: Setting) -> Finding:
    name = "idle_replication_slot_timeout"
    if not setting.number:
        return Finding("ok", name, "none")
    text = f"{setting.text}: a pipeline that stops for longer loses its slot"
    if setting.number >= _SHORT_IDLE:
        return Finding("ok", name, text)
    mend = f"ALTER SYSTEM SET {name} = 0; SELECT pg_reload_conf();"
    return Finding("warning", name, text, mend)
