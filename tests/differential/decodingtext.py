"""What PostgreSQL's own plugin test_decoding prints, read back: lines to transactions.

Pure functions. The text is made in contrib/test_decoding/test_decoding.c; nothing of ours reads it
elsewhere, so that the two readings of one log are independent of each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum


class Left(Enum):
    """Stands for a value that the log left out."""

    OUT = "unchanged-toast-datum"


Text = str | Left | None
Columns = dict[str, tuple[str, Text]]
"""Type and text by column name."""


@dataclass
class Told:
    """One change; `old` and `new` are None where there is no such row in the text."""

    op: str
    tables: list[tuple[str, str]]
    old: Columns | None = None
    new: Columns | None = None


@dataclass
class ToldTransaction:
    xid: str
    changes: list[Told] = field(default_factory=list)


_NAME = r'(?:[a-z_][a-z0-9_]*|"(?:[^"]|"")*")'
_TABLE = rf"{_NAME}\.{_NAME}"
_CHANGE = re.compile(rf"table ({_TABLE}(?:, {_TABLE})*): (INSERT|UPDATE|DELETE|TRUNCATE):")
_COLUMN = re.compile(rf" ({_NAME})\[(.+?)\]:('(?:[^']+|'')*'|\S+)", re.DOTALL)
_OLD, _NEW = " old-key:", " new-tuple:"
_OPS = {"INSERT": "c", "UPDATE": "u", "DELETE": "d", "TRUNCATE": "t"}


def transactions(lines: Iterable[str]) -> list[ToldTransaction]:
    """Those that changed something, in commit order."""
    told: list[ToldTransaction] = []
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "BEGIN":
            told.append(ToldTransaction(rest))
        elif word == "COMMIT":
            assert told[-1].xid == rest, f"{line} after BEGIN {told[-1].xid}"
        else:
            told[-1].changes.append(change(line))
    return [transaction for transaction in told if transaction.changes]


def change(line: str) -> Told:
    found = _CHANGE.match(line)
    assert found, line
    told = Told(_OPS[found[2]], [_path(name) for name in re.findall(_TABLE, found[1])])
    at = found.end()
    if told.op in "cu":
        if line.startswith(_OLD, at):
            told.old, at = _columns(line, at + len(_OLD))
            assert line.startswith(_NEW, at), line[at:]
            at += len(_NEW)
        told.new, at = _columns(line, at)
    elif told.op == "d":
        told.old, at = _columns(line, at)
    assert told.op == "t" or at == len(line), line[at:]
    return told


def _columns(line: str, at: int) -> tuple[Columns, int]:
    columns: Columns = {}
    while found := _COLUMN.match(line, at):
        columns[_unquoted(found[1])] = (found[2], _text(found[3]))
        at = found.end()
    return columns, at


def _text(literal: str) -> Text:
    if literal == "null":
        return None
    if literal == Left.OUT.value:
        return Left.OUT
    if literal.startswith("'"):
        return literal[1:-1].replace("''", "'")
    return literal[2:-1] if literal.startswith("B'") else literal


def _path(name: str) -> tuple[str, str]:
    schema, table = re.findall(_NAME, name)
    return _unquoted(schema), _unquoted(table)


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
