"""Column types: what each is called, and how its text becomes a value or JSON.

One table serves the stream and the backfill: pgoutput and COPY send the same text, printed under
the settings that `connecting` pins. What Python or JSON cannot hold stays that text.
"""

from __future__ import annotations

import re
from binascii import b2a_base64, unhexlify
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from json.encoder import encode_basestring as quote
from typing import Any
from uuid import UUID

from msgspec import Struct

from tailrace.values import Json


class Kind(Struct, frozen=True):
    """How values of one type are read. `logical` is the type's name in a `TableSchema`.

    `python` takes proper text, `json` takes text whose UTF-8 is carried as latin-1
    (`tailrace.row.Change.json`) and gives such text back. `inline` is `json` as a Python
    expression over ``v``, for the generated decoder.
    """

    logical: str
    python: Callable[[str], Any]
    json: Callable[[str], str]
    inline: str = "json{n}({v})"


def _plain(text: str) -> str:
    """For text without quotes, backslashes and control characters."""
    return f'"{text}"'


_PLAIN_INLINE = """('"' + {v} + '"')"""
_QUOTE_INLINE = "q({v})"


def _float(text: str) -> float | str:
    return float(text) if text[-1].isdigit() else text


def _float_json(text: str) -> str:
    if text == "-0":
        return "-0.0"  # without a fraction it is read as an integer, which has no such zero
    return text if text[-1].isdigit() else f'"{text}"'


_FLOAT_INLINE = """({v} if {v}[-1].isdigit() and {v} != "-0" else json{n}({v}))"""


def _decimal(text: str) -> Decimal | str:
    return Decimal(text) if text[-1].isdigit() else text


def _bytes(text: str) -> bytes:
    return unhexlify(text[2:])


def _bytes_json(text: str) -> str:
    return f'"{b2a_base64(unhexlify(text[2:]), newline=False).decode()}"'


def _json_json(text: str) -> str:
    # A line break in a document can only be white space between its tokens.
    return text.replace("\n", " ").replace("\r", " ") if "\n" in text or "\r" in text else text


# Dates and times: what is infinite, BC, after 9999 or 24:00:00 stays the database's own text.


def _date(text: str) -> date | str:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return text


def _clock(text: str) -> str:
    """HH:MM:SS with up to six digits of a fraction, filled up to six."""
    return text.ljust(15, "0") if len(text) > 8 else text + ".000000"


def _time(text: str) -> time | str:
    return text if text.startswith("24") else time.fromisoformat(_clock(text))


def _time_json(text: str) -> str:
    return f'"{text}"' if text.startswith("24") else f'"{_clock(text)}"'


def _ordinary(text: str) -> bool:
    """A time stamp with a four-digit year, not BC, not infinite."""
    return 19 <= len(text) <= 26 and text[10] == " " and text[-1].isdigit()


def _timestamp(text: str) -> datetime | str:
    if not _ordinary(text):
        return text
    return datetime.fromisoformat(f"{text[:11]}{_clock(text[11:])}")


def _timestamp_json(text: str) -> str:
    return f'"{text[:10]}T{_clock(text[11:])}"' if _ordinary(text) else f'"{text}"'


def _timestamptz(text: str) -> datetime | str:
    if text[-3:] != "+00" or not _ordinary(text[:-3]):
        return text
    return datetime.fromisoformat(f"{text[:11]}{_clock(text[11:-3])}+00:00")


def _timestamptz_json(text: str) -> str:
    if text[-3:] != "+00" or not _ordinary(text[:-3]):
        return f'"{text}"'
    return f'"{text[:10]}T{_clock(text[11:-3])}Z"'


# With all six digits, as nine in ten readings of a clock have them, no call is needed.
_TIMESTAMP_INLINE = (
    """(f'"{{{v}[:10]}}T{{{v}[11:]}}"' if len({v}) == 26 and {v}[10] == " " """
    """and {v}[25].isdigit() else json{n}({v}))"""
)
_TIMESTAMPTZ_INLINE = (
    """(f'"{{{v}[:10]}}T{{{v}[11:26]}}Z"' if len({v}) == 29 and {v}[10] == " " """
    """and {v}[26:] == "+00" else json{n}({v}))"""
)


def _integer(logical: str) -> Kind:
    return Kind(logical, int, str, "{v}")


_TEXT = Kind("string", str, quote, _QUOTE_INLINE)
_BIT = Kind("bit", str, _plain, _PLAIN_INLINE)
ENUM = Kind("enum", str, quote, _QUOTE_INLINE)
OTHER = Kind("other", str, quote, _QUOTE_INLINE)

BUILTIN: dict[str, Kind] = {
    "bool": Kind(
        "bool",
        lambda text: text == "t",
        lambda text: "true" if text == "t" else "false",
        '("true" if {v} == "t" else "false")',
    ),
    "int2": _integer("int16"),
    "int4": _integer("int32"),
    "int8": _integer("int64"),
    "oid": _integer("uint32"),
    "xid": _integer("uint32"),
    "cid": _integer("uint32"),
    "xid8": _integer("uint64"),
    "float4": Kind("float32", _float, _float_json, _FLOAT_INLINE),
    "float8": Kind("float64", _float, _float_json, _FLOAT_INLINE),
    "numeric": Kind("decimal", _decimal, _plain, _PLAIN_INLINE),
    "text": _TEXT,
    "varchar": _TEXT,
    "bpchar": _TEXT,
    "name": _TEXT,
    "refcursor": _TEXT,
    "char": _TEXT,
    "bytea": Kind("bytes", _bytes, _bytes_json),
    "date": Kind("date", _date, _plain, _PLAIN_INLINE),
    "time": Kind("time", _time, _time_json),
    "timestamp": Kind("timestamp", _timestamp, _timestamp_json, _TIMESTAMP_INLINE),
    "timestamptz": Kind("timestamptz", _timestamptz, _timestamptz_json, _TIMESTAMPTZ_INLINE),
    "interval": Kind("interval", str, _plain, _PLAIN_INLINE),
    "uuid": Kind("uuid", UUID, _plain, _PLAIN_INLINE),
    "json": Kind("json", Json, _json_json),
    "jsonb": Kind("json", Json, str, "{v}"),
    "bit": _BIT,
    "varbit": _BIT,
}
"""The server's own types that are more than text, by ``pg_type.typname``."""

EXTENSIONS: dict[str, Kind] = {"citext": _TEXT}
"""Types of extensions that are more than text as the database prints it."""


def scalar_kind(typname: str, typmod: int = -1) -> Kind:
    """The kind of one of the server's own types; text for one that is not in the table."""
    kind = BUILTIN.get(typname, OTHER)
    if typname == "numeric" and typmod >= 4:
        precision, scale = (typmod - 4) >> 16 & 0xFFFF, (typmod - 4) & 0x7FF
        scale = scale - 0x800 if scale & 0x400 else scale  # negative since PostgreSQL 15
        return Kind(f"decimal({precision},{scale})", kind.python, kind.json, kind.inline)
    return kind


def array_kind(element: Kind, delimiter: str = ",") -> Kind:
    """Arrays of `element`; `delimiter` is its type's (``;`` for box).

    One whose bounds do not begin at 1 stays the database's own text.
    """

    def python(text: str) -> Any:
        return text if text[0] == "[" else _items(text, element.python, delimiter)

    def json(text: str) -> str:
        if text[0] == "[":
            return quote(text)
        return _array_json(_items(text, element.json, delimiter))

    return Kind(f"array({element.logical})", python, json)


def _array_json(items: list[Any]) -> str:
    texts = [
        _array_json(item) if isinstance(item, list) else "null" if item is None else item
        for item in items
    ]
    return f"[{','.join(texts)}]"


def _items(text: str, convert: Callable[[str], Any], delimiter: str) -> list[Any]:
    """An array literal as nested lists (PostgreSQL manual, 8.15.6); None for NULL."""
    if '"' in text or text.find("{", 1) > 0 or text == "{}":
        return _nested(text, convert, delimiter)
    return [None if item == "NULL" else convert(item) for item in text[1:-1].split(delimiter)]


def _nested(text: str, convert: Callable[[str], Any], delimiter: str) -> list[Any]:
    stack: list[list[Any]] = [[]]
    for quoted, bare, other in _tokens(delimiter).findall(text):
        if quoted:
            item = quoted[1:-1]
            stack[-1].append(convert(_ESCAPED.sub(r"\1", item) if "\\" in item else item))
        elif bare:
            stack[-1].append(None if bare == "NULL" else convert(bare))
        elif other == "{":
            stack.append([])
        elif other == "}":
            closed = stack.pop()
            stack[-1].append(closed)
        else:
            raise ValueError("a quoted element does not end")
    [[items]] = stack
    result: list[Any] = items
    return result


_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@lru_cache
def _tokens(delimiter: str) -> re.Pattern[str]:
    """Finds quoted elements with their quotes, bare elements, and braces; no delimiters."""
    bare = rf'[^{{}}"{re.escape(delimiter)}]++'
    return re.compile(rf'("(?:[^"\\]++|\\.)*+")|({bare})|([{{}}"])', re.DOTALL)
