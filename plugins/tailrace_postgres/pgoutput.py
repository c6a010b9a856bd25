"""pgoutput, protocol version 1: bytes to records. Pure functions, one record per message.

Source: PostgreSQL manual, 54.5 (streaming replication protocol) and 54.9 (logical replication
message formats). Row messages are not taken apart here: `decoder` reads their tuples.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from tailrace_postgres.errors import MalformedMessageError

HEADER = 25
"""XLogData: 'w', start of the data, end of the log, server's clock; then the pgoutput message."""

POSTGRES_EPOCH = 946_684_800_000_000
"""2000-01-01 UTC in microseconds since 1970."""

_BEGIN = struct.Struct("!QqI")
_COMMIT = struct.Struct("!BQQq")
_KEEPALIVE = struct.Struct("!xQqB")
_SENT = struct.Struct("!q")
_STATUS = struct.Struct("!cQQQqB")
_RELATION_COLUMN = struct.Struct("!Ii")
_MESSAGE = struct.Struct("!BQ")


class Begin(NamedTuple):
    """`lsn` is where the transaction's commit record begins; `ts` microseconds since 1970."""

    lsn: int
    ts: int
    xid: int


class Commit(NamedTuple):
    """`end` is where the next record begins."""

    lsn: int
    end: int
    ts: int


class RelationColumn(NamedTuple):
    name: str
    oid: int
    typmod: int
    in_identity: bool


class Relation(NamedTuple):
    """`identity` is d (default), n (nothing), f (full) or i (index)."""

    relid: int
    schema: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]


class Truncate(NamedTuple):
    relids: tuple[int, ...]
    cascade: bool
    restart_identity: bool


class Message(NamedTuple):
    """What pg_logical_emit_message wrote; `end` is where the next record begins."""

    transactional: bool
    end: int
    prefix: str
    content: bytes


class Keepalive(NamedTuple):
    end: int
    ts: int
    reply: bool


def begin(message: bytes) -> Begin:
    lsn, ts, xid = _unpack(_BEGIN, message, HEADER + 1)
    return Begin(lsn, ts + POSTGRES_EPOCH, xid)


def commit(message: bytes) -> Commit:
    _, lsn, end, ts = _unpack(_COMMIT, message, HEADER + 1)
    return Commit(lsn, end, ts + POSTGRES_EPOCH)


def keepalive(message: bytes) -> Keepalive:
    end, ts, reply = _unpack(_KEEPALIVE, message, 0)
    return Keepalive(end, ts + POSTGRES_EPOCH, bool(reply))


def relation(message: bytes) -> Relation:
    try:
        (relid,) = struct.unpack_from("!I", message, HEADER + 1)
        schema, at = _name(message, HEADER + 5)
        name, at = _name(message, at)
        identity = chr(message[at])
        (count,) = struct.unpack_from("!H", message, at + 1)
        columns, at = [], at + 3
        for _ in range(count):
            in_identity = bool(message[at] & 1)
            column, at = _name(message, at + 1)
            oid, typmod = _RELATION_COLUMN.unpack_from(message, at)
            at += _RELATION_COLUMN.size
            columns.append(RelationColumn(column, oid, typmod, in_identity))
    except (IndexError, ValueError, struct.error) as error:
        raise MalformedMessageError("a relation message is cut off") from error
    return Relation(relid, schema or "pg_catalog", name, identity, tuple(columns))


def truncate(message: bytes) -> Truncate:
    count, options = _unpack(struct.Struct("!IB"), message, HEADER + 1)
    relids = _unpack(struct.Struct(f"!{count}I"), message, HEADER + 6)
    return Truncate(relids, bool(options & 1), bool(options & 2))


def logical_message(message: bytes) -> Message:
    """A prefix that is no UTF-8 (the database's encoding is SQL_ASCII) is escaped."""
    flags, end = _unpack(_MESSAGE, message, HEADER + 1)
    start = HEADER + 1 + _MESSAGE.size
    prefix, zero, rest = message[start:].partition(b"\0")
    if not zero or len(rest) < 4 or len(rest) - 4 != int.from_bytes(rest[:4], "big"):
        raise MalformedMessageError("a logical message is cut off")
    return Message(bool(flags & 1), end, prefix.decode(errors="backslashreplace"), rest[4:])


def sent(message: bytes) -> int:
    """When the server sent an XLogData message, by its own clock, in microseconds since 1970."""
    (ts,) = _unpack(_SENT, message, 17)
    return ts + POSTGRES_EPOCH


def status(received: int, flushed: int, ts: int, *, reply: bool) -> bytes:
    """Standby status update; `ts` in microseconds since 1970. `flushed` counts as applied too."""
    return _STATUS.pack(b"r", received, flushed, flushed, ts - POSTGRES_EPOCH, reply)


def _name(message: bytes, at: int) -> tuple[str, int]:
    end = message.index(0, at)
    return message[at:end].decode(), end + 1


def _unpack(layout: struct.Struct, message: bytes, at: int) -> tuple[int, ...]:
    try:
        return layout.unpack_from(message, at)
    except struct.error as error:
        raise MalformedMessageError(f"a {message[:1]!r} message is cut off") from error
