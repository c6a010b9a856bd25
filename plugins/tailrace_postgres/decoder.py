"""From a row's bytes, in a pgoutput message or a COPY line, to values or JSON.

For each shape of a relation one decoder is made, with functions `generated` for its columns. Rows
are decoded when somebody asks, and go straight to JSON when nobody needs their values. Text is
handled as latin-1 (UTF-8 bytes, one character each): slicing and joining then cost one copy, and
nothing is decoded and encoded on the way (measured: docs/adr/0003).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from json.encoder import encode_basestring as quote
from struct import error as LayoutError
from typing import Any

from tailrace.row import Row
from tailrace.schema import TableSchema
from tailrace_postgres.errors import MalformedMessageError
from tailrace_postgres.generated import (
    NEW,
    UNREADABLE,
    Shape,
    json_of_line,
    json_of_message,
    uint32,
)
from tailrace_postgres.lsn import lsn_text
from tailrace_postgres.types import Kind

_NULL, _TEXT, _UNCHANGED = b"ntu"

_WITHOUT_TEXT: dict[int, str | None] = {_NULL: "null", _UNCHANGED: None}

Texts = list[str | None]
"""A tuple's columns as JSON texts; None for one that the log left out (unchanged TOAST)."""


def _latin(text: str) -> str:
    return text.encode().decode("latin-1")


def _utf8(text: str) -> str:
    return text if text.isascii() else text.encode("latin-1").decode()


class Decoder:
    """Decodes rows of one relation as it was described at one place in the log.

    `kinds` and `table.columns` correspond. Not thread-safe by need: it holds no state.
    """

    def __init__(self, table: TableSchema, kinds: Sequence[Kind]) -> None:
        self.table = table
        self.kinds = tuple(kinds)
        names = [column.name for column in table.columns]
        quoted = tuple(quote(_latin(name)) for name in names)
        self._members = tuple(f"{name}:" for name in quoted)
        self._quoted = quoted
        self._names = names
        self._key = [names.index(name) for name in table.key]
        others = (text for i, text in enumerate(quoted) if i not in self._key)
        self.beyond_key = f"[{','.join(others)}]"
        shape = Shape(table.label, self.kinds, quoted, self._key)
        self.json_of_new = json_of_message(shape, lambda m: self.new(self.last_texts(m, NEW)))
        self.json_of_line = json_of_line(shape, lambda line: self.new(self.texts_of_line(line)))

    def texts(self, message: bytes, at: int) -> tuple[Texts, int]:
        """The tuple whose first column begins at `at`, and where it ends."""
        result: Texts = []
        self._check_count(message, at)
        try:
            for kind in self.kinds:
                tag, text, at = column(message, at)
                result.append(kind.json(text) if tag == _TEXT else _WITHOUT_TEXT[tag])
        except UNREADABLE as error:
            raise malformed(message, f"column {len(result) + 1} does not read") from error
        return result, at

    def values(self, message: bytes, at: int) -> tuple[dict[str, Any], int]:
        """The same tuple as Python values by column name, without what the log left out."""
        row = {}
        self._check_count(message, at)
        try:
            for name, kind in zip(self._names, self.kinds, strict=True):
                tag, text, at = column(message, at)
                if tag != _UNCHANGED:
                    row[name] = kind.python(_utf8(text)) if tag == _TEXT else None
        except UNREADABLE as error:
            raise malformed(message, "a column does not read") from error
        return row, at

    def last_texts(self, message: bytes, at: int) -> Texts:
        """`texts` of the tuple with which the message ends."""
        texts, end = self.texts(message, at)
        _check_end(message, end)
        return texts

    def last_values(self, message: bytes, at: int) -> dict[str, Any]:
        """`values` of the tuple with which the message ends."""
        values, end = self.values(message, at)
        _check_end(message, end)
        return values

    def _check_count(self, message: bytes, at: int) -> None:
        count = int.from_bytes(message[at - 2 : at], "big")
        if count != len(self.kinds) or at > len(message):
            raise malformed(message, f"a row has {count} columns instead of {len(self.kinds)}")

    def object(self, texts: Texts) -> str:
        members = zip(self._members, texts, strict=True)
        return "{" + ",".join([name + text for name, text in members if text is not None]) + "}"

    def key_object(self, texts: Texts) -> str:
        if not self._key:
            return "null"
        members = [self._members[i] + text for i in self._key if (text := texts[i]) is not None]
        return "{" + ",".join(members) + "}"

    def missing(self, texts: Texts) -> str:
        return f"[{','.join([self._quoted[i] for i, t in enumerate(texts) if t is None])}]"

    def new(self, texts: Texts, before: str = "null") -> str:
        """The JSON members of a change whose new row is `texts`."""
        return (
            f'"key":{self.key_object(texts)},"before":{before},'
            f'"after":{self.object(texts)},"unavailable":{self.missing(texts)}'
        )

    def old(self, texts: Texts, before: str, missing: str) -> str:
        """The JSON members of a delete whose old row is `texts`."""
        return (
            f'"key":{self.key_object(texts)},"before":{before},"after":null,"unavailable":{missing}'
        )

    def texts_of_line(self, line: bytes) -> Texts:
        fields = line.decode("latin-1")[:-1].split("\t")
        return [
            "null" if field == "\\N" else kind.json(unescape(field))
            for field, kind in zip(fields, self.kinds, strict=True)
        ]

    def values_of_line(self, line: bytes) -> dict[str, Any]:
        fields = line.decode()[:-1].split("\t")
        return {
            name: None if field == "\\N" else kind.python(unescape(field))
            for name, field, kind in zip(self._names, fields, self.kinds, strict=True)
        }

    def key_of_line(self, line: bytes) -> dict[str, Any] | None:
        """The key alone: a backfill asks for that of every row while the table is written to."""
        fields = line.decode()[:-1].split("\t")
        key = {}
        for i in self._key:
            field = fields[i]
            key[self._names[i]] = None if field == "\\N" else self.kinds[i].python(unescape(field))
        return key or None

    def with_key(self, texts: Texts, old: Texts) -> Texts:
        """`texts` with the key columns that it lacks (long, TOASTed ones) from the old tuple."""
        return [old[n] if text is None and n in self._key else text for n, text in enumerate(texts)]

    def identity_only(self, row: dict[str, Any]) -> dict[str, Any]:
        """The key columns of an old tuple; in a key tuple the others read as null."""
        return {name: row[name] for name in self.table.key if name in row}

    def pick_key(self, row: Row) -> Row | None:
        return {name: row[name] for name in self.table.key if name in row} or None

    def absent(self, row: Row) -> tuple[str, ...]:
        return tuple(name for name in self._names if name not in row)


def column(message: bytes, at: int) -> tuple[int, str, int]:
    """One column of a tuple (protocol: TupleData): kind (n, t or u), text as latin-1, its end.

    Raises MalformedMessageError for a kind or a length that does not fit.
    """
    try:
        kind = message[at]
        if kind == _TEXT:
            end = at + 5 + uint32(message, at + 1)[0]
            if end > len(message):
                raise IndexError
            return kind, message[at + 5 : end].decode("latin-1"), end
    except (IndexError, LayoutError) as error:
        raise malformed(message, f"the column at byte {at} is cut off") from error
    if kind not in (_NULL, _UNCHANGED):
        raise malformed(message, f"the column at byte {at} is of kind {kind:#x}")
    return kind, "", at + 1


def new_tuple(message: bytes, at: int) -> int:
    """Where the columns of the new tuple begin that follows an old one, which ends at `at`."""
    if message[at : at + 1] != b"N":
        raise malformed(message, "there is no new row after the old one")
    return at + 3


def malformed(message: bytes, what: str) -> MalformedMessageError:
    lsn = int.from_bytes(message[1:9], "big")
    return MalformedMessageError(
        f"the server's row message at {lsn_text(lsn)} is malformed: {what}"
    )


def _check_end(message: bytes, end: int) -> None:
    if end != len(message):
        raise malformed(message, f"{len(message) - end} bytes follow the row")


def unescape(field: str) -> str:
    """A field of COPY's text format without its escapes (PostgreSQL manual, COPY)."""
    if "\\" not in field:
        return field
    return _ESCAPED.sub(lambda match: _ESCAPES.get(match[1], match[1]), field)


_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
