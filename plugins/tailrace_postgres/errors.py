"""Errors of the replication protocol, and libpq's errors in Tailrace's terms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import Error

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
_GRANT = "grant it: ALTER ROLE … REPLICATION; GRANT SELECT ON … TO …"

_SECURED = "42501 row-level security"
_BYPASS = (
    "let the role see all rows: ALTER ROLE … BYPASSRLS; or leave the table out: snapshot.tables=!…"
)

# SQLSTATE (or its class) -> what to raise, and the mending step. The longest match counts.
_STATES: dict[str, tuple[type[TailraceError], str | None]] = {
    "28": (ConfigError, "check the user and the password in source.dsn, and pg_hba.conf"),
    "3D000": (ConfigError, "check the database's name in source.dsn"),
    "42501": (ConfigError, _GRANT),
    _SECURED: (ConfigError, _BYPASS),
    "53400": (ConfigError, "raise max_replication_slots or drop slots that nobody uses"),
    "55000": (PositionLostError, _LOST),
    "58P01": (PositionLostError, _LOST),
    "42704": (PositionLostError, _LOST),
    "0A000": (ConfigError, None),
    "42": (PermanentError, None),
    "22": (PermanentError, None),
    "XX": (PermanentError, None),
}


def translate(error: Error, what: str, *, opening: bool = False) -> TailraceError:
    """The Tailrace error for a driver's; `what` was being done. Unknown ones are transient.

    While `opening`, a server that cannot be reached is the user's to mend.
    """
    state = error.sqlstate or ""
    if "row-level security" in str(error):
        state = _SECURED
    matches = [prefix for prefix in _STATES if state.startswith(prefix)]
    said = _first_line(error)
    if matches and state:
        kind, mend = _STATES[max(matches, key=len)]
        return kind(f"{what}: {said}", mend=mend)
    if opening and not state:
        return _unreachable(what, said)
    return TransientError(f"{what}: {said}")


# libpq gives no SQLSTATE for errors during the connection's start-up; the server's words decide.
_WORDS = {
    r'database ".*" does not exist': _STATES["3D000"][1],
    r"WAL sender|replication role": _GRANT,
    r"max_wal_senders|max_connections|too many": "raise max_wal_senders and max_connections, or"
    " end what uses the connections up",
    r"password|authentication|pg_hba\.conf|role \".*\"": _STATES["28"][1],
    r"": "check host and port in source.dsn, and that the server runs",
}


def _unreachable(what: str, said: str) -> ConfigError:
    mend = next(mend for words, mend in _WORDS.items() if re.search(words, said))
    return ConfigError(f"{what}: {said}", mend=mend)


def _first_line(error: Error) -> str:
    if error.diag.message_primary:
        detail = error.diag.message_detail
        return f"{error.diag.message_primary}{f' ({detail})' if detail else ''}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def translated(what: str, *, opening: bool = False, refused: str | None = None) -> Iterator[None]:
    """Driver errors of the block leave it as Tailrace's.

    `refused` is the mending step where the server refuses what the user has written.
    """
    try:
        yield
    except psycopg.Error as error:
        if refused and (error.sqlstate or "").startswith(("22", "42")):
            raise ConfigError(f"{what}: {_first_line(error)}", mend=refused) from error
        raise translate(error, what, opening=opening) from error
    except OSError as error:
        raise TransientError(f"{what}: {error}") from error
