"""Every type reads the same from the stream, from the backfill and by SELECT."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from json.encoder import encode_basestring as quote
from typing import Any

import pytest

from agreement import agree
from pipelines import delivered_once, images, sql
from tailrace.stores.memory import MemoryStore
from tailrace.values import Json
from tailrace_postgres.types import scalar_kind
from typetable import DDL, TYPES, WITHOUT_INPUT


def test_p29_values_are_the_same_everywhere(each_database: str) -> None:
    agree(each_database, TYPES, DDL)


def test_no_type_of_the_server_is_left_out(each_database: str) -> None:
    """XML is in no server here that is built without libxml."""
    query = """
        SELECT typname::text FROM pg_type
        WHERE typtype IN ('b', 'r', 'm') AND typoutput <> 'array_out'::regproc
              AND oid <> ALL (SELECT coalesce(to_regtype(name), 0) FROM unnest(%s::text[]) name)
    """
    left = sql(each_database, query, values=[[type.name for type in TYPES]])
    assert {name for (name,) in left} == WITHOUT_INPUT | {"xml"}


BC = "0044-03-15 00:00:00+00 BC"
LATE = "294276-12-31 23:59:59.999999"
OFFSET = "12:00:00+05:30:15"
RANGE = '["2026-01-01 00:00:00",infinity)'


@pytest.mark.parametrize(
    ("typname", "text", "value", "told"),
    [
        ("bool", "t", True, "true"),
        ("int8", "-9223372036854775808", -(2**63), "-9223372036854775808"),
        ("float8", "-0", -0.0, "-0.0"),
        ("float8", "1e+20", 1e20, "1e+20"),
        ("float4", "NaN", "NaN", '"NaN"'),
        ("numeric", "1.50", Decimal("1.50"), '"1.50"'),
        ("numeric", "-Infinity", "-Infinity", '"-Infinity"'),
        ("text", 'a"\n\x01\u2028', 'a"\n\x01\u2028', '"a\\"\\n\\u0001\u2028"'),
        ("bytea", "\\x00ff", b"\x00\xff", '"AP8="'),
        ("date", "2026-11-24", date(2026, 11, 24), '"2026-11-24"'),
        ("date", "5874897-12-31", "5874897-12-31", '"5874897-12-31"'),
        ("date", "infinity", "infinity", '"infinity"'),
        ("time", "12:00:00.5", time(12, 0, 0, 500000), '"12:00:00.500000"'),
        ("time", "24:00:00", "24:00:00", '"24:00:00"'),
        ("timetz", OFFSET, OFFSET, f'"{OFFSET}"'),
        ("timestamp", "0001-01-01 00:00:00", datetime(1, 1, 1), '"0001-01-01T00:00:00.000000"'),
        ("timestamp", LATE, LATE, f'"{LATE}"'),
        (
            "timestamptz",
            "2026-11-24 01:02:03.000004+00",
            datetime(2026, 11, 24, 1, 2, 3, 4, UTC),
            '"2026-11-24T01:02:03.000004Z"',
        ),
        ("timestamptz", BC, BC, f'"{BC}"'),
        ("interval", "-infinity", "-infinity", '"-infinity"'),
        ("json", '{"a" :\n"\\ud800"}', Json('{"a" :\n"\\ud800"}'), '{"a" : "\\ud800"}'),
        ("tsrange", RANGE, RANGE, json.dumps(RANGE)),
    ],
)
def test_p29_reads(typname: str, text: str, value: Any, told: str) -> None:
    kind = scalar_kind(typname)
    got = kind.python(text)
    assert (type(got), repr(got)) == (type(value), repr(value))
    carried = text.encode().decode("latin-1")
    scope = {"v": carried, "q": quote, "json0": kind.json}
    inline = eval(kind.inline.format(v="v", n=0), scope)
    assert kind.json(carried) == inline == told.encode().decode("latin-1")


def test_arrays_of_a_domain_over_arrays(database: str) -> None:
    sql(database, "CREATE DOMAIN tags AS text[]", "CREATE TABLE t (id int PRIMARY KEY, v tags[])")
    sql(database, "INSERT INTO t VALUES (1, ARRAY['{a,NULL}', NULL, '{}', '[0:0]={b}']::tags[])")
    [event] = delivered_once(database)
    expected = [["a", None], None, [], "[0:0]={b}"]
    assert (event.after or {})["v"] == images(event)["after"]["v"] == expected
    assert event.table.columns[1].type == "array(array(string))"


def test_of_a_type_that_is_gone_the_text_is_left(database: str) -> None:
    """The stream comes to rows whose columns have been dropped since, with their types."""
    store = MemoryStore()
    sql(database, "CREATE TYPE mood AS ENUM ('sad')", "CREATE TYPE pair AS (n int, t text)")
    sql(database, "CREATE TABLE t (id int PRIMARY KEY, m mood, p pair, ms mood[])")
    assert delivered_once(database, store) == []
    sql(
        database,
        "INSERT INTO t VALUES (1, 'sad', '(7,x)', '{sad}')",
        "ALTER TABLE t DROP COLUMN m, DROP COLUMN p, DROP COLUMN ms",
        "DROP TYPE mood",
        "DROP TYPE pair",
    )
    [event] = delivered_once(database, store)
    assert event.after == {"id": 1, "m": "sad", "p": "(7,x)", "ms": "{sad}"}
    assert [column.type for column in event.table.columns] == ["int32", *["other"] * 3]
