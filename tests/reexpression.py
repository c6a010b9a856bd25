"""What events must hold, made anew from what SELECT prints, without the code under test."""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg

from tailrace.values import Json
from typetable import Column

Cell = Any
"""A value as SELECT prints it, an array as nested lists of such texts; None for null."""

SPECIAL = ("NaN", "Infinity", "-Infinity")
_DATE = r"(\d{4})-(\d\d)-(\d\d)"
_TIME = r"(\d\d):(\d\d):(\d\d)(?:\.(\d+))?"

_SCALAR = (
    "SELECT id, CASE num_nulls({0}) WHEN 0 THEN format('%s', {0}) END, NULL, NULL FROM public.t"
)
_ARRAY = """
SELECT id, CASE num_nulls({0}) WHEN 0 THEN format('%s', {0}) END, array_dims({0}),
       (SELECT array_agg(CASE num_nulls(e) WHEN 0 THEN format('%s', e) END)
        FROM (SELECT unnest({0}) AS e) u)
FROM public.t
"""


def printed(
    connection: psycopg.Connection[Any], columns: Sequence[Column]
) -> dict[int, dict[str, Cell]]:
    """The table's rows by id. format() prints as output functions do, a cast to text may not."""
    rows: dict[int, dict[str, Cell]] = {}
    for column in columns:
        query = _ARRAY if column.logical.startswith("array(") else _SCALAR
        for id, text, dims, items in connection.execute(query.format(column.name).encode()):
            is_list = query is _ARRAY and text is not None and text[0] == "{"
            cell = _nested(dims, items) if is_list else text
            rows.setdefault(id, {})[column.name] = cell
    return rows


def _nested(dims: str | None, items: list[str | None] | None) -> list[Any]:
    lengths = [int(upper) for upper in re.findall(r"\[1:(\d+)\]", dims or "")]
    nested: list[Any] = items or []
    for length in reversed(lengths[1:]):
        nested = [nested[at : at + length] for at in range(0, len(nested), length)]
    return nested


def as_python(logical: str, cell: Cell) -> Any:
    """The value that `Event.after` must hold."""
    if cell is None:
        return None
    if isinstance(cell, list):
        return [as_python(_element(logical, item), item) for item in cell]
    match re.sub(r"\(.*|\d", "", logical):
        case "bool":
            return {"t": True, "f": False}[cell]
        case "int" | "uint":
            return int(cell)
        case "float":
            return cell if cell in SPECIAL else float(cell)
        case "decimal":
            return cell if cell in SPECIAL else Decimal(cell)
        case "bytes":
            return bytes.fromhex(cell.removeprefix("\\x"))
        case "uuid":
            return UUID(cell)
        case "json":
            return Json(cell)
        case "date" | "time" | "timestamp" | "timestamptz":
            return _moment(cell)
    return cell


def _element(logical: str, item: Cell) -> str:
    return logical if isinstance(item, list) else logical[len("array(") : -1]


def _moment(text: str) -> Any:
    if found := re.fullmatch(_DATE, text):
        return date(*map(int, found.groups()))
    if (found := re.fullmatch(_TIME, text)) and found[1] != "24":
        hour, minute, second = map(int, found.groups()[:3])
        return time(hour, minute, second, _microseconds(found[4]))
    if found := re.fullmatch(f"{_DATE} {_TIME}(\\+00)?", text):
        year, month, day, hour, minute, second = map(int, found.groups()[:6])
        zone = UTC if found[8] else None
        return datetime(year, month, day, hour, minute, second, _microseconds(found[7]), zone)
    return text


def _microseconds(fraction: str | None) -> int:
    return int((fraction or "").ljust(6, "0"))


_SCANNER = json.JSONDecoder(parse_int=str, parse_float=str)
_SPACE = re.compile(r"[ \t]*")


def pieces(text: str) -> list[str]:
    """The items of a JSON array, or names and values of an object in turn, to the letter."""
    found, at = [], 1
    while text[at] not in "]}":
        begin = _space(text, at)
        at = _SCANNER.raw_decode(text, begin)[1]
        found.append(text[begin:at])
        at = _space(text, at)
        assert text[at] in ",:]}"
        at += text[at] in ",:"
    assert at == len(text) - 1
    return found


def _space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space
    return space.end()


def members(text: str) -> dict[str, str]:
    """The members of a JSON object, to the letter."""
    found = pieces(text)
    return dict(zip(map(json.loads, found[::2]), found[1::2], strict=True))


def is_json(logical: str, cell: Cell, raw: str) -> bool:
    """Whether `raw` is the JSON that an event must hold."""
    if cell is None:
        return raw == "null"
    if isinstance(cell, list):
        items = pieces(raw)
        return len(items) == len(cell) and all(
            is_json(_element(logical, item), item, one)
            for item, one in zip(cell, items, strict=True)
        )
    text: str = cell
    match re.sub(r"\(.*|\d", "", logical):
        case "bool":
            return raw == {"t": "true", "f": "false"}[text]
        case "int" | "uint":
            return raw == text
        case "float" if text not in SPECIAL:
            return struct.pack("d", _number(raw)) == struct.pack("d", float(text))
        case "json":
            return raw.strip(" \t") == re.sub(r"[\r\n]", " ", text).strip(" \t")
    return bool(json.loads(raw) == _text(logical, text))


def _number(raw: str) -> float:
    value = json.loads(raw)
    assert type(value) in (int, float)
    return float(value)


def _text(logical: str, text: str) -> str:
    if logical == "bytes":
        return base64.b64encode(bytes.fromhex(text.removeprefix("\\x"))).decode()
    value = _moment(text) if logical in ("time", "timestamp", "timestamptz") else text
    if isinstance(value, str):
        return value
    return str(value.isoformat(timespec="microseconds")).replace("+00:00", "Z")
