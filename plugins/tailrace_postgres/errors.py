"""libpq's and the server's errors in Tailrace's terms: the one table of what mends what."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import Error, sql

from tailrace.errors import (
    ConfigError,
    PermanentError,
    PositionLostError,
    TailraceError,
    TransientError,
)


class MalformedMessageError(PermanentError):
    """The server sent what the protocol does not allow; nothing of it was delivered."""


_LOST = (
    "reading from here would leave a gap: drop the slot and the checkpoint and start again with "
    "snapshot=initial, or restore what is missing"
)
_NOT_UNICODE = (
    "mend that text in the database; if it is in the log already, drop the slot and the checkpoint"
    " afterwards, and start again with snapshot=initial"
)
_SLOTS = (
    "drop slots that nobody uses (SELECT slot_name FROM pg_replication_slots WHERE NOT active), or"
    " raise the limit: ALTER SYSTEM SET max_replication_slots = …; then restart the server"
)
_WAL_LEVEL = "ALTER SYSTEM SET wal_level = logical; then restart the server"
_REPLICATION = "ALTER ROLE {role} REPLICATION"
_BYPASS = (
    "let the role see all rows: ALTER ROLE {role} BYPASSRLS; or leave the table out:"
    " snapshot.tables=!…"
)

# SQLSTATE or its class, words of the message, what to raise, the mending step. The first row that
# fits counts. {it} is what the words name, {role} who is connected, both quoted. The server names a
# table without its schema: {table} has it, where one is being read.
_STATES: list[tuple[str, str, type[TailraceError], str | None]] = [
    ("42501", r"row-level security", ConfigError, _BYPASS),
    ("42501", r"denied for table (?P<it>.+)", ConfigError, "GRANT SELECT ON {table} TO {role}"),
    ("42501", r"denied for schema (?P<it>.+)", ConfigError, "GRANT USAGE ON SCHEMA {it} TO {role}"),
    ("42501", r"replication slots", ConfigError, _REPLICATION),
    ("42501", r"", ConfigError, "let the owner or a superuser do it, or grant it to {role}"),
    ("53400", r"replication slots", ConfigError, _SLOTS),
    ("55000", r"wal_level", ConfigError, _WAL_LEVEL),
    ("55000", r"", PositionLostError, _LOST),
    ("58P01", r"", PositionLostError, _LOST),
    ("42704", r"", PositionLostError, _LOST),
    ("0A000", r"", ConfigError, None),
    ("42", r"", PermanentError, None),
    ("22021", r"", PermanentError, _NOT_UNICODE),
    ("22P05", r"", PermanentError, _NOT_UNICODE),
    ("22", r"", PermanentError, None),
    ("XX", r"", PermanentError, None),
]

_AUTHORITY = (
    "name the file with the certificate of the server's authority in source.dsn: sslrootcert=…, or"
    " sslrootcert=system for those that the system trusts"
)

# libpq gives no SQLSTATE while it connects: its words decide, and the server's if they are English.
_CONNECTING: list[tuple[str, str]] = [
    (r'role "(?P<it>.+)" is not permitted to log in', "ALTER ROLE {it} LOGIN"),
    (r'denied for database "(?P<it>.+)"', "GRANT CONNECT ON DATABASE {it} TO {role}"),
    (r"start (WAL sender|walsender)", _REPLICATION),
    (
        r"max_wal_senders",
        "end what uses them up (SELECT * FROM pg_stat_replication), or raise the limit:"
        " ALTER SYSTEM SET max_wal_senders = …; then restart the server",
    ),
    (r'connections for role "(?P<it>.+)"', "ALTER ROLE {it} CONNECTION LIMIT -1"),
    (r'connections for database "(?P<it>.+)"', "ALTER DATABASE {it} CONNECTION LIMIT -1"),
    (
        r"too many clients|connection slots",
        "end what uses the connections up (SELECT * FROM pg_stat_activity), or raise the limit:"
        " ALTER SYSTEM SET max_connections = …; then restart the server",
    ),
    (r"the database system is", "start again once the server takes connections"),
    (r'database ".+" does not exist', "check the database's name in source.dsn"),
    (
        r"does not support SSL",
        "switch TLS on in the server: ALTER SYSTEM SET ssl = on, with ssl_cert_file and"
        " ssl_key_file; or take sslmode out of source.dsn, and anybody on the way can read along",
    ),
    (
        r"does not match host name",
        "name the host in source.dsn as the server's certificate does, or give the server a"
        " certificate for this name; sslmode=verify-ca does not compare the names",
    ),
    (
        r"certificate verify failed",
        "the server's certificate has expired, is revoked, or is of an authority that sslrootcert"
        " in source.dsn does not name: renew it, or put the authority's into that file",
    ),
    (r"root certificate file|sslrootcert", _AUTHORITY),
    (
        r"private key file|certificate file|client certificate|[Cc]ertificate auth|unknown ca",
        "name a certificate that the server takes for this role in source.dsn (sslcert), its key"
        " (sslkey), which only you may read, and the key's password (sslpassword)",
    ),
    (
        r"no encryption",
        "connect with TLS (sslmode=verify-full in source.dsn), or let the server take connections"
        " without it in pg_hba.conf",
    ),
    (
        r"password|authentication|pg_hba\.conf|role \".*\"",
        "check the user and the password in source.dsn, and pg_hba.conf",
    ),
    (r"service", "check service in source.dsn, and the file that PGSERVICEFILE names"),
    (
        r"read-only|hot standby",
        "no host in source.dsn is what target_session_attrs asks for: add one that is",
    ),
    (r"invalid .*value", "check what source.dsn says; libpq's manual has the values"),
]
_ADDRESS = "check host and port in source.dsn, and that the server runs"

# pgBouncer refuses what it does not know, or drops it where `ignore_startup_parameters` says so.
_POOLER = r"unsupported startup parameter|pgbouncer cannot|at or near \"IDENTIFY_SYSTEM\""


def pooler(said: str = "it gives one process of the server to several sessions") -> ConfigError:
    """For a way to PostgreSQL that does not carry replication, or not the session's settings."""
    return ConfigError(
        f"source.dsn leads to pgBouncer or another pooler: {said}",
        mend="name PostgreSQL itself, by its own host and port",
    )


def translate(
    error: Error,
    what: str,
    *,
    opening: bool = False,
    role: str = "",
    table: Sequence[str] = (),
) -> TailraceError:
    """The Tailrace error for a driver's; `role` was doing `what` to `table`. Unknown ones are
    transient.

    While `opening`, a server that cannot be reached is the user's to mend.
    """
    said = _said(error)
    if re.search(_POOLER, said):
        return pooler(said)
    if not error.sqlstate:
        return _unreachable(error, what, said, opening=opening)
    for state, words, kind, mend in _STATES:
        found = re.search(words, said)
        if found and error.sqlstate.startswith(state):
            return kind(f"{what}: {said}", mend=mend and _filled(mend, found, role, table))
    return TransientError(f"{what}: {said}")


def _unreachable(error: Error, what: str, said: str, *, opening: bool) -> TailraceError:
    kind = ConfigError if opening else TransientError
    role = error.pgconn.user.decode() if error.pgconn else ""
    for words, mend in _CONNECTING:
        if found := re.search(words, said):
            return kind(f"{what}: {said}", mend=_filled(mend, found, role))
    return kind(f"{what}: {said}", mend=_ADDRESS if opening else None)


def _filled(mend: str, found: re.Match[str], role: str, table: Sequence[str] = ()) -> str:
    it = found.groupdict().get("it", "")
    return mend.format(
        it=_quoted(it),
        role=_quoted(role) if role else "the role in source.dsn",
        table=_quoted(*table) if table else _quoted(it),
    )


def _quoted(*name: str) -> str:
    return sql.Identifier(*name).as_string()


def _said(error: Error) -> str:
    """One line; where several hosts were tried, what each said."""
    if error.diag.message_primary:
        detail = error.diag.message_detail
        return f"{error.diag.message_primary}{f' ({detail})' if detail else ''}"
    text = str(error)
    hosts = re.findall(r"^- host: .*, hostaddr: (?:None|'[^']*'): (.*)", text, re.MULTILINE)
    lines = hosts or text.strip().splitlines()[:1] or [type(error).__name__]
    said = [re.sub(r"^connection (failed|is bad): ", "", line) for line in lines]
    return "; ".join(dict.fromkeys(said))


@contextmanager
def translated(
    what: str,
    *,
    opening: bool = False,
    role: str = "",
    table: Sequence[str] = (),
    refused: str | None = None,
) -> Iterator[None]:
    """Driver errors of the block leave it as Tailrace's.

    `refused` is the mending step where the server refuses what the user has written.
    """
    try:
        yield
    except psycopg.Error as error:
        if refused and (error.sqlstate or "").startswith(("22", "42")):
            raise ConfigError(f"{what}: {_said(error)}", mend=refused) from error
        raise translate(error, what, opening=opening, role=role, table=table) from error
    except OSError as error:
        raise TransientError(f"{what}: {error}") from error
