"""The values that rows hold, and how each reads in JSON.

| logical type | Python | JSON |
|---|---|---|
| bool, integers | bool, int | true, number |
| float32, float64 | float; NaN and infinities as text | number; text |
| decimal | Decimal; NaN and infinities as text | text that keeps the scale |
| string, enum, interval, bit, other | str | text |
| bytes | bytes | base64 |
| date, time, timestamp, timestamptz | date, time, datetime; text beyond Python's range | RFC 3339, microseconds |
| uuid | UUID | text |
| json | `Json`, the document's own text | itself |
| array, set | list | array |

A value that Python or JSON cannot hold is the database's own text, a plain str.
"""  # noqa: E501 - a table row cannot be wrapped

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from json.encoder import encode_basestring
from math import isfinite
from typing import Any
from uuid import UUID


class Json(str):
    """A JSON document as the database holds it, to the letter; `load` parses it."""

    __slots__ = ()

    def load(self) -> Any:
        """What ``json.loads`` gives; an integer of more digits than ``int`` takes is a Decimal."""
        return json.loads(self, parse_int=_integer if len(self) > _INT_DIGITS else None)


_INT_DIGITS = 4300


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= _INT_DIGITS else Decimal(digits)


def quote(text: str) -> str:
    """A JSON string; non-ASCII characters stay as they are."""
    return encode_basestring(text)


def clock(value: datetime | time) -> str:
    """RFC 3339 with microseconds; ``Z`` for UTC, the offset for other zones, none without one."""
    text = value.isoformat(timespec="microseconds")
    return text[:-6] + "Z" if text.endswith("+00:00") else text


def rfc3339(microseconds: int) -> str:
    """Microseconds since 1970 as RFC 3339 in UTC, with six digits of a fraction."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    return f"{_second(seconds)}.{fraction:06d}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds")


_EPOCH = datetime(1970, 1, 1)


def _text(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Json():
            return value.replace("\n", " ").replace("\r", " ")
        case str():
            return quote(value)
        case int():
            return int.__repr__(value)
        case float():  # of a subclass (NumPy's) too
            return float.__repr__(value) if isfinite(value) else f'"{_special(value)}"'
        case Decimal():
            return f'"{value:f}"'
        case UUID():
            return f'"{value}"'
        case datetime() | time():
            return f'"{clock(value)}"'
        case date():
            return f'"{value.isoformat()}"'
        case bytes() | bytearray() | memoryview():
            return f'"{b64encode(value).decode()}"'
        case Mapping():
            return "{" + ",".join(f"{quote(str(k))}:{_text(v)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(map(_text, value)) + "]"
    raise TypeError(f"a row cannot hold a {type(value).__name__}")


def _special(value: float) -> str:
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def to_json(value: Any) -> str:
    """The value as JSON text: UTF-8 carried as latin-1, as `tailrace.row.Change.json` wants it.

    Raises TypeError for a value that is not in the table above.
    """
    # A lone surrogate has no UTF-8; what backslashreplace writes for it is its JSON escape.
    return _text(value).encode("utf-8", "backslashreplace").decode("latin-1")
