"""Values and their JSON."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.row import Images
from tailrace.values import Json, rfc3339, to_json


class Level(IntEnum):
    LOW = 1


class Ratio(float):
    def __repr__(self) -> str:
        return f"Ratio({float(self)})"


EAST = timezone(timedelta(hours=5, minutes=30))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-(2**70), str(-(2**70))),
        (1.5, "1.5"),
        (-0.0, "-0.0"),
        (5e-324, "5e-324"),
        (Level.LOW, "1"),
        (Ratio(0.5), "0.5"),
        (float("nan"), '"NaN"'),
        (float("inf"), '"Infinity"'),
        (float("-inf"), '"-Infinity"'),
        (Decimal("1.50"), '"1.50"'),
        (Decimal("1E+3"), '"1000"'),
        (Decimal("0E-10"), '"0.0000000000"'),
        ("", '""'),
        ('a"\\\n\x01', '"a\\"\\\\\\n\\u0001"'),
        (b"\x00\xff", '"AP8="'),
        (bytearray(b"a"), '"YQ=="'),
        (memoryview(b"a"), '"YQ=="'),
        (date(1, 2, 3), '"0001-02-03"'),
        (time(1, 2, 3), '"01:02:03.000000"'),
        (time(1, 2, 3, tzinfo=EAST), '"01:02:03.000000+05:30"'),
        (datetime(2026, 11, 24, 1, 2, 3), '"2026-11-24T01:02:03.000000"'),
        (datetime(2026, 11, 24, 1, 2, 3, 4, UTC), '"2026-11-24T01:02:03.000004Z"'),
        (datetime(2026, 11, 24, 1, 2, 3, 4, EAST), '"2026-11-24T01:02:03.000004+05:30"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Json('{"a" : 1.0}'), '{"a" : 1.0}'),
        (Json('{\r\n"a":1\n}'), '{  "a":1 }'),
        ([1, None, ["a"]], '[1,null,["a"]]'),
        ((), "[]"),
        ({"a": {"b": [True]}, 1: 2}, '{"a":{"b":[true]},"1":2}'),
    ],
)
def test_json_of(value: Any, text: str) -> None:
    assert to_json(value) == text
    json.loads(to_json(value))


def test_text_is_utf8_carried_as_latin1() -> None:
    assert to_json("é\U0001f980").encode("latin-1").decode() == '"é\U0001f980"'


def test_a_lone_surrogate_becomes_its_escape() -> None:
    assert to_json("\ud800") == '"\\ud800"'
    assert json.loads(to_json({"\udfff": "x\ud800"})) == {"\udfff": "x\ud800"}


@pytest.mark.parametrize("value", [object(), {1}, 1j, timedelta(1)])
def test_what_no_row_can_hold(value: object) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        to_json(value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_parsed_it_is_the_value(value: Any) -> None:
    assert json.loads(to_json(value).encode("latin-1")) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_exact(value: float) -> None:
    assert repr(json.loads(to_json(value))) == repr(value)


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_decimals_keep_value_and_scale(value: Decimal) -> None:
    text = json.loads(to_json(value))
    assert "E" not in text
    assert Decimal(text) == value


def test_json_loads_itself() -> None:
    assert Json('{"a": [1, null]}').load() == {"a": [1, None]}


def test_json_loads_integers_of_any_length() -> None:
    digits = "9" * 4300
    assert Json(f"[1, {digits}, {digits}0]").load() == [1, int(digits), Decimal(digits + "0")]


@pytest.mark.parametrize(
    ("ts", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1_763_880_247_826_123, "2025-11-23T06:44:07.826123Z"),
    ],
)
def test_rfc3339(ts: int, text: str) -> None:
    assert rfc3339(ts) == text


def test_images_write_what_they_hold() -> None:
    images = Images({"id": 1}, None, {"id": 1, "é": "x"}, ("big",))
    told = json.loads(f"{{{images.json()}}}".encode("latin-1"))
    assert told == {
        "key": {"id": 1},
        "before": None,
        "after": {"id": 1, "é": "x"},
        "unavailable": ["big"],
    }
