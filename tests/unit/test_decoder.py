"""The decoder's text handling: COPY's escapes, array literals, generated names."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.schema import Column, TableSchema
from tailrace_postgres.changes import CopiedRow, NewRow
from tailrace_postgres.decoder import Decoder, unescape
from tailrace_postgres.types import array_kind, scalar_kind

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NAMES = st.lists(TEXT.filter(bool), min_size=1, max_size=5, unique=True)
HEADER = bytes(25) + b"I" + bytes(4) + b"N"


def decoder(names: list[str], typname: str = "text", key: int = 1) -> Decoder:
    columns = tuple(Column(name, "string", "text") for name in names)
    schema = TableSchema("db", "s", "t", columns, tuple(names[:key]))
    return Decoder(schema, [scalar_kind(typname)] * len(names))


def message(values: list[str | None]) -> bytes:
    parts = [HEADER, struct.pack("!H", len(values))]
    for value in values:
        data = b"" if value is None else value.encode()
        parts += [b"n"] if value is None else [b"t", struct.pack("!I", len(data)), data]
    return b"".join(parts)


def copied(values: list[str | None]) -> bytes:
    """A line of COPY's text format, as the manual describes it."""
    escapes = {"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r"}
    escapes |= {"\t": "\\t", "\v": "\\v"}
    fields = ["\\N" if v is None else "".join(escapes.get(c, c) for c in v) for v in values]
    return ("\t".join(fields) + "\n").encode()


@given(names=NAMES, data=st.data())
def test_names_and_texts_of_any_kind(names: list[str], data: st.DataObject) -> None:
    """Stream and backfill give the same, as values and as JSON, whatever the text is."""
    size = len(names)
    values = data.draw(st.lists(TEXT | st.none(), min_size=size, max_size=size))
    row = dict(zip(names, values, strict=True))
    made = decoder(names)
    key = {names[0]: values[0]}
    for change in (NewRow(made, message(values)), CopiedRow(made, copied(values))):
        assert change.after == row
        assert change.key == key
        told = json.loads(f"{{{change.json()}}}".encode("latin-1"))
        assert told == {"key": key, "before": None, "after": row, "unavailable": []}


@pytest.mark.parametrize(
    "values",
    [
        [None, None],
        ["\\N", None],
        [None, "\\"],
        ["N", "\\\\N"],
        ["a\tb", "N"],
        ["\\N\\N", "\n"],
        ["a", ""],
    ],
)
def test_nulls_and_backslashes_of_a_copied_row(values: list[str | None]) -> None:
    change = CopiedRow(decoder(["a", "b"]), copied(values))
    row = dict(zip("ab", values, strict=True))
    assert json.loads(f"{{{change.json()}}}")["after"] == change.after == row


@pytest.mark.parametrize("size", [0, 1, 127, 128, 254, 255, 256, 257, 65_535, 65_536, 70_000])
def test_texts_of_every_length(size: int) -> None:
    for char in ("x", "é"):
        value = char * size
        change = NewRow(decoder(["a", "b"]), message([value, "end"]))
        assert json.loads(f"{{{change.json()}}}".encode("latin-1"))["after"]["a"] == value
        assert (change.after or {}) == {"a": value, "b": "end"}


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("a\\\\b", "a\\b"),
        ("\\\\N", "\\N"),
        ("\\t\\n\\r\\b\\f\\v", "\t\n\r\b\f\v"),
        ("plain", "plain"),
    ],
)
def test_unescape(field: str, text: str) -> None:
    assert unescape(field) == text


@pytest.mark.parametrize(
    ("literal", "items"),
    [
        ("{}", []),
        ("{a}", ["a"]),
        ('{a,NULL,"NULL","",null}', ["a", None, "NULL", "", "null"]),
        ('{"a,b","c\\"d","e\\\\f","{g}"}', ["a,b", 'c"d', "e\\f", "{g}"]),
        ("{{a,b},{c,NULL}}", [["a", "b"], ["c", None]]),
        ("{{{a}}}", [[["a"]]]),
        ("[0:1]={a,b}", "[0:1]={a,b}"),
    ],
)
def test_array_literals(literal: str, items: object) -> None:
    kind = array_kind(scalar_kind("text"))
    assert kind.python(literal) == items
    assert json.loads(kind.json(literal)) == items


def test_boxes_are_parted_by_semicolons() -> None:
    kind = array_kind(scalar_kind("box"), ";")
    assert kind.python("{(3,4),(1,2);(1,1),(0,0)}") == ["(3,4),(1,2)", "(1,1),(0,0)"]


@pytest.mark.parametrize(
    ("typmod", "logical"),
    [
        (-1, "decimal"),
        ((10 << 16 | 2) + 4, "decimal(10,2)"),
        ((5 << 16 | 0x7FE) + 4, "decimal(5,-2)"),
    ],
)
def test_precision_and_scale(typmod: int, logical: str) -> None:
    assert scalar_kind("numeric", typmod).logical == logical
