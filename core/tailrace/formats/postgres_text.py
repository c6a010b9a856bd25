"""Values of rows as PostgreSQL prints them, for formats that pass its text on.

The inverse of how its source reads them: ISO dates, UTC, the shortest exact floats, bytea in hex.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

_SPECIAL_IN_ARRAY = re.compile(r'[{}"\\\s]|^$|^null$', re.IGNORECASE | re.ASCII)
_DIGITS = {"float32": 6, "float64": 15}


def as_text(value: Any, logical: str, delimiter: str = ",") -> str:
    """The text of a value that is not null. `logical` is its type in the `TableSchema`.

    `delimiter` is that of arrays of the type.
    """
    match value:
        case str():
            return value
        case bool():
            return "t" if value else "f"
        case int() | UUID():
            return str(value)
        case float():
            return _float(value, _DIGITS.get(logical, 15))
        case Decimal():
            return f"{value:f}"
        case datetime() | time():
            return trimmed(value.isoformat(" ") if isinstance(value, datetime) else str(value))
        case date():
            return value.isoformat()
        case bytes():
            return f"\\x{value.hex()}"
        case list():
            return _array(value, logical.removeprefix("array(").removesuffix(")"), delimiter)
    raise TypeError(f"PostgreSQL has no {type(value).__name__}")


def trimmed(clock: str) -> str:
    """A time of day, or what ends with one, without the zeros at the end of its fraction."""
    body, zone = (clock[:-6], "+00") if clock.endswith("+00:00") else (clock, "")
    return (body.rstrip("0") if "." in body else body) + zone


def _float(value: float, digits: int) -> str:
    """With an exponent below -4, and from the number of digits that the type always keeps."""
    number = Decimal(repr(value)).normalize()
    if not value or -4 <= number.adjusted() < digits:
        return f"{number:f}"
    mantissa, _, exponent = f"{number:e}".partition("e")
    return f"{mantissa}e{int(exponent):+03d}"


def _array(items: list[Any], element: str, delimiter: str) -> str:
    """An array literal (PostgreSQL manual, 8.15.6)."""
    return "{" + delimiter.join(_item(item, element, delimiter) for item in items) + "}"


def _item(item: Any, element: str, delimiter: str) -> str:
    if item is None:
        return "NULL"
    if isinstance(item, list):
        return _array(item, element, delimiter)
    text = as_text(item, element)
    if delimiter not in text and not _SPECIAL_IN_ARRAY.search(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
