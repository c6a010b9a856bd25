"""The format of wal-listener 2.11: ``{"id":…,"schema":…,"table":…,"action":…,"data":…,…}``.

wal-listener writes booleans, whole numbers, jsonb and time stamps as JSON of their own and all else
as the database's own text; so does this (docs/formats/wal-listener.md). Where its JSON looks as Go
writes it, the functions here say so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID, uuid5

from tailrace.config import PluginConfig
from tailrace.event import Event
from tailrace.formats import Format, Message
from tailrace.formats.json import message_key
from tailrace.formats.postgres_text import as_text, trimmed
from tailrace.row import Row
from tailrace.schema import Column, TableSchema
from tailrace.values import rfc3339

NAMESPACE = UUID("07608a95-0f83-5385-b99d-b1b5248c8f72")
"""Of the version 5 UUIDs made from event ids. Never to be changed."""

NO_TIME = '"0001-01-01T00:00:00Z"'
"""What Go has instead of a time that it cannot read: infinite, BC, after the year 9999."""

_ACTIONS = {"c": "INSERT", "r": "INSERT", "u": "UPDATE", "d": "DELETE", "t": "TRUNCATE"}
_INTEGERS = ("smallint", "integer", "bigint")

Writer = Callable[[Any], str]
"""From a value that is not null to its JSON."""


class WalListenerConfig(PluginConfig):
    """The format has no settings."""


class WalListenerFormat(Format):
    """One object an event; none for a schema change or a message of the application."""

    Config: ClassVar[type[PluginConfig]] = WalListenerConfig
    content_type = "application/json"

    def __init__(self, config: Any, *, name: str, connector: str) -> None:
        super().__init__(config, name=name, connector=connector)
        self._tables: dict[int, _Table] = {}  # by id: hashing a schema is slow

    def encode(self, events: Sequence[Event], *, keyed: bool = False) -> list[Message]:
        return [
            Message(self._body(event), events[at : at + 1], message_key(event) if keyed else None)
            for at, event in enumerate(events)
            if event.op in _ACTIONS
        ]

    def _body(self, event: Event) -> bytes:
        table = self._tables.get(id(event.table))
        if table is None:
            table = self._tables[id(event.table)] = _Table(event.table)
        before = event.before
        text = (
            f'{{"id":"{uuid5(NAMESPACE, event.id)}",{table.names},"action":"{_ACTIONS[event.op]}",'
            f'"data":{table.data(event.after or {})},'
            f'"dataOld":{"{}" if before is None else table.data_old(before)},'
            f'"commitTime":"{trimmed(rfc3339(event.transaction.ts)[:-1])}Z"}}'
        )
        return text.encode("utf-8", "backslashreplace")


class _Table:
    """How the rows of one table are written: columns by name, as Go sorts a map."""

    def __init__(self, schema: TableSchema) -> None:
        self.schema = schema
        self.names = f'"schema":{quoted(schema.schema or "")},"table":{quoted(schema.name)}'
        self._columns = [
            (column.name, f"{quoted(column.name)}:", _writer(column))
            for column in sorted(schema.columns, key=lambda column: column.name.encode())
        ]

    def data(self, row: Row) -> str:
        """The columns that the log has carried."""
        members = [
            member + ("null" if row[name] is None else write(row[name]))
            for name, member, write in self._columns
            if name in row
        ]
        return "{" + ",".join(members) + "}"

    def data_old(self, row: Row) -> str:
        """All columns; null stands for what the log has not carried, too."""
        return self.data({name: row.get(name) for name, _, _ in self._columns})


def _writer(column: Column) -> Writer:
    """By the column's own type: a domain over integer is text."""
    db_type = column.db_type
    if db_type == "boolean":
        return lambda value: "true" if value else "false"
    if db_type in _INTEGERS:
        return str
    if db_type == "jsonb":
        return _jsonb
    if column.type in ("timestamp", "timestamptz") and db_type.startswith("timestamp"):
        return _time
    delimiter = ";" if db_type.startswith("box[") else ","
    return lambda value: quoted(as_text(value, column.type, delimiter))


def _time(value: datetime | str) -> str:
    if isinstance(value, str):
        return NO_TIME
    return f'"{trimmed(value.replace(tzinfo=None).isoformat())}Z"'


class _Number(str):
    """A number's text."""

    __slots__ = ()


def _number(text: str) -> _Number:
    return _Number(text.rstrip("0").rstrip(".") if "." in text else text)


def _jsonb(text: str) -> str:
    return _go(json.loads(text, parse_int=_number, parse_float=_number))


def _go(value: Any) -> str:
    """A JSON value as Go writes it: no spaces, keys sorted, 1.0 as 1. Numbers keep all digits."""
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case _Number():
            return str(value)
        case str():
            return quoted(value)
        case list():
            return "[" + ",".join(map(_go, value)) + "]"
        case Mapping():
            names = sorted(value, key=str.encode)
            return "{" + ",".join(f"{quoted(name)}:{_go(value[name])}" for name in names) + "}"
    raise TypeError(f"JSON has no {type(value).__name__}")


_UNSAFE = re.compile(r'[\x00-\x1f"\\<>&\u2028\u2029]')
_ESCAPES = {
    **{code: f"\\u{code:04x}" for code in (*range(0x20), *b"<>&", 0x2028, 0x2029)},
    **{ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", ord('"'): '\\"', ord("\\"): "\\\\"},
}


def quoted(text: str) -> str:
    """A JSON string as Go writes it: safe inside HTML and JavaScript."""
    return f'"{text.translate(_ESCAPES) if _UNSAFE.search(text) else text}"'
