"""Column types: what each is called, and how its text becomes a value or JSON.

One table serves the stream and the backfill: pgoutput and COPY send the same text. `python`
takes proper text, `json` takes text whose UTF-8 is carried as latin-1 (`tailrace.row.Change.json`)
and gives such text back. `inline`, where there is one, is `json` as a Python expression over
``v``, for the generated decoder.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from json.encoder import encode_basestring as quote
from typing import Any
from uuid import UUID

from msgspec import Struct

from tailrace.values import Json


class Kind(Struct, frozen=True):
    """How values of one type are read. `logical` is the type's name in a `TableSchema`."""

    logical: str
    python: Callable[[str], Any]
    json: Callable[[str], str]
    inline: str


def _number(text: str) -> str:
    return text if text[-1].isdigit() else f'"{text}"'


def _float(text: str) -> float | str:
    return float(text) if text[-1].isdigit() else text


def _decimal(text: str) -> Decimal | str:
    return Decimal(text) if text[-1].isdigit() else text


def _bytes_json(text: str) -> str:
    return f'"{b64encode(bytes.fromhex(text[2:])).decode()}"'


def _json_json(text: str) -> str:
    # A line break in a document can only be white space between its tokens.
    return text.replace("\n", " ").replace("\r", " ") if "\n" in text or "\r" in text else text


def _date(text: str) -> date | str:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return text


def _time(text: str) -> time | str:
    try:
        return time.fromisoformat(_clock(text))
    except ValueError:
        return text


def _clock(text: str) -> str:
    """HH:MM:SS with up to six digits of a fraction, filled up to six."""
    return text.ljust(15, "0") if len(text) > 8 else text + ".000000"


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
    if not _ordinary(text):
        return f'"{text}"'
    return f'"{text[:10]}T{_clock(text[11:])}"'


def _timestamptz(text: str) -> datetime | str:
    if not text.endswith("+00"):
        return text
    value = _timestamp(text[:-3])
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else text


def _timestamptz_json(text: str) -> str:
    if text[-3:] != "+00" or not _ordinary(text[:-3]):
        return f'"{text}"'
    return f'"{text[:10]}T{_clock(text[11:-3])}Z"'


def _plain(text: str) -> str:
    return f'"{text}"'


_TEXT = Kind("string", str, quote, "q({v})")
OTHER = Kind("other", str, quote, "q({v})")
_TIMESTAMPTZ_INLINE = (
    """(f'"{{{v}[:10]}}T{{{v}[11:26]}}Z"' if len({v}) == 29 and {v}[10] == " " """
    """and {v}[26:] == "+00" else json{n}({v}))"""
)


def _integer(logical: str) -> Kind:
    return Kind(logical, int, str, "{v}")


_KINDS: dict[str, Kind] = {
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
    "float4": Kind("float32", _float, _number, "json{n}({v})"),
    "float8": Kind("float64", _float, _number, "json{n}({v})"),
    "numeric": Kind("decimal", _decimal, _plain, """('"' + {v} + '"')"""),
    "text": _TEXT,
    "varchar": _TEXT,
    "bpchar": _TEXT,
    "name": _TEXT,
    "char": _TEXT,
    "bytea": Kind("bytes", lambda text: bytes.fromhex(text[2:]), _bytes_json, "json{n}({v})"),
    "date": Kind("date", _date, _plain, """('"' + {v} + '"')"""),
    "time": Kind("time", _time, _time_json, "json{n}({v})"),
    "timestamp": Kind("timestamp", _timestamp, _timestamp_json, "json{n}({v})"),
    "timestamptz": Kind("timestamptz", _timestamptz, _timestamptz_json, _TIMESTAMPTZ_INLINE),
    "interval": Kind("interval", str, _plain, """('"' + {v} + '"')"""),
    "uuid": Kind("uuid", UUID, _plain, """('"' + {v} + '"')"""),
    "json": Kind("json", Json, _json_json, "json{n}({v})"),
    "jsonb": Kind("json", Json, str, "{v}"),
    "bit": Kind("bit", str, _plain, """('"' + {v} + '"')"""),
    "varbit": Kind("bit", str, _plain, """('"' + {v} + '"')"""),
}
ENUM = Kind("enum", str, quote, "q({v})")


def scalar_kind(typname: str, typmod: int = -1) -> Kind:
    """The kind of a type that is neither array, enum nor domain; text for an unknown one."""
    kind = _KINDS.get(typname, OTHER)
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
        return text if text[0] == "[" else _nested(text, element.python, delimiter)

    def json(text: str) -> str:
        if text[0] == "[":
            return quote(text)
        return _array_json(_nested(text, element.json, delimiter))

    return Kind(f"array({element.logical})", python, json, "json{n}({v})")


def _array_json(items: list[Any]) -> str:
    texts = (
        _array_json(item) if isinstance(item, list) else "null" if item is None else item
        for item in items
    )
    return f"[{','.join(texts)}]"


def _nested(text: str, convert: Callable[[str], Any], delimiter: str) -> list[Any]:
    """An array literal as nested lists (PostgreSQL manual, 8.15.6); None for NULL."""
    stack: list[list[Any]] = [[]]
    at, end = 0, len(text)
    while at < end:
        char = text[at]
        if char == "{":
            stack.append([])
            at += 1
        elif char == "}":
            closed = stack.pop()
            stack[-1].append(closed)
            at += 1
        elif char == delimiter:
            at += 1
        elif char == '"':
            item, at = _quoted(text, at + 1)
            stack[-1].append(convert(item))
        else:
            item, at = _bare(text, at, delimiter)
            stack[-1].append(None if item == "NULL" else convert(item))
    result: list[Any] = stack[0][0]
    return result


def _quoted(text: str, at: int) -> tuple[str, int]:
    end = text.index('"', at)
    if "\\" not in text[at:end]:
        return text[at:end], end + 1
    chars = []
    while (char := text[at]) != '"':
        if char == "\\":
            at += 1
            char = text[at]
        chars.append(char)
        at += 1
    return "".join(chars), at + 1


def _bare(text: str, at: int, delimiter: str) -> tuple[str, int]:
    end = at
    while text[end] not in (delimiter, "}"):
        end += 1
    return text[at:end], end
