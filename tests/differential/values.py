"""Texts of values for columns of several types, for hypothesis to choose from."""

from __future__ import annotations

import json
from datetime import datetime

from hypothesis import strategies as st

Text = st.SearchStrategy[str]

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_INT = st.integers(-(2**31), 2**31 - 1).map(str)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def _quoted(item: str | None) -> str:
    if item is None:
        return "NULL"
    return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _array(element: Text) -> Text:
    """One or two dimensions; PostgreSQL wants rows of the same length."""
    row = st.lists(st.none() | element, max_size=3)
    square = st.lists(st.tuples(element, st.none() | element), min_size=1, max_size=2)
    literal = row.map(lambda items: f"{{{','.join(map(_quoted, items))}}}")
    nested = square.map(lambda rows: ",".join(f"{{{','.join(map(_quoted, r))}}}" for r in rows))
    return literal | nested.map(lambda rows: f"{{{rows}}}")


def _clock(value: datetime) -> str:
    return f"{value.isoformat()}+00"


VALUES: dict[str, Text] = {
    "integer": _INT,
    "text": TEXT,
    "numeric": st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str)
    | st.sampled_from(["NaN", "1E+30", "0.00", "-Infinity"]),
    "double precision": st.floats().map(repr),
    "bytea": st.binary(max_size=9).map(lambda data: f"\\x{data.hex()}"),
    "boolean": st.sampled_from(["t", "f"]),
    "timestamp with time zone": st.datetimes().map(_clock)
    | st.sampled_from(["infinity", "-infinity"]),
    "integer[]": _array(_INT),
    "text[]": _array(TEXT),
    "json": _JSON.map(json.dumps),
    "jsonb": _JSON.map(json.dumps).filter(lambda text: "\\u0000" not in text),
}
"""By the name that PostgreSQL prints for the type."""
