"""Every type reads the same from the stream, from the backfill and by SELECT."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg

from pipelines import images, running, sql
from tailrace.event import Event
from tailrace.values import Json, to_json
from tailrace_postgres.connecting import PIN

LONG = "1" * 1000 + ".5"
TEXTS = ["", "a", "it's", 'say "x"', "back\\slash", "\\N", "tab\t\r\n\x01\x7f\x08\x0c\x0b", "NULL"]
TEXTS += ["{a,b}", "äöü €", "\x80\x9f\xa0\xff", "\U0001f980", " pad ", "x" * 300, "ü" * 200]

Cases = list[tuple[str, Any]]


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def same(*texts: str) -> Cases:
    """Values that are carried as the database's own text."""
    return [(quoted(text), text) for text in texts]


TYPES: dict[str, tuple[str, Cases]] = {
    "boolean": ("bool", [("true", True), ("false", False)]),
    "smallint": ("int16", [("-32768", -32768), ("32767", 32767)]),
    "integer": ("int32", [("0", 0), ("-2147483648", -2147483648)]),
    "bigint": ("int64", [("9223372036854775807", 9223372036854775807)]),
    "oid": ("uint32", [("4294967295", 4294967295)]),
    "real": (
        "float32",
        [
            ("'0.1'", 0.1),
            ("'NaN'", "NaN"),
            ("'-Infinity'", "-Infinity"),
            ("'1e-45'", 1e-45),
            ("'3.4028235e38'", 3.4028235e38),
            ("'-0'", -0.0),
            ("'1e20'", 1e20),
        ],
    ),
    "double precision": (
        "float64",
        [
            ("'0.1'", 0.1),
            ("'NaN'", "NaN"),
            ("'Infinity'", "Infinity"),
            ("'-0'", -0.0),
            ("'5e-324'", 5e-324),
            ("'1.7976931348623157e308'", 1.7976931348623157e308),
            ("'1e15'", 1000000000000000.0),
            ("'123456789012345680'", 1.2345678901234568e17),
        ],
    ),
    "numeric": (
        "decimal",
        [
            ("'1.50'", Decimal("1.50")),
            ("'NaN'", "NaN"),
            ("'Infinity'", "Infinity"),
            ("'-Infinity'", "-Infinity"),
            (f"'{LONG}'", Decimal(LONG)),
            ("'0'", Decimal(0)),
            ("'0.00000000000000000001'", Decimal("0.00000000000000000001")),
            ("'1e30'", Decimal("1" + "0" * 30)),
        ],
    ),
    "numeric(10,2)": ("decimal(10,2)", [("'1.5'", Decimal("1.50")), ("-7", Decimal("-7.00"))]),
    "numeric(5,-2)": ("decimal(5,-2)", [("12345", Decimal("12300"))]),
    "text": ("string", [(quoted(text), text) for text in TEXTS]),
    "varchar(400)": ("string", [(quoted(text), text) for text in TEXTS]),
    "char(5)": ("string", [("'ab'", "ab   "), ("'ü\"\\'", 'ü"\\  ')]),
    "name": ("string", [("'n'", "n")]),
    "bytea": ("bytes", [("'\\x00ff5c'", b"\x00\xff\\"), ("''", b"")]),
    "date": (
        "date",
        [
            ("'2026-11-24'", date(2026, 11, 24)),
            ("'0001-01-01'", date(1, 1, 1)),
            *same("infinity", "-infinity", "0044-03-15 BC", "5874897-12-31", "10000-01-01"),
        ],
    ),
    "time": (
        "time",
        [
            ("'12:00:00'", time(12)),
            ("'23:59:59.999999'", time(23, 59, 59, 999999)),
            ("'01:02:03.5'", time(1, 2, 3, 500000)),
            ("'24:00:00'", "24:00:00"),
        ],
    ),
    "timetz": ("other", same("12:00:00+05:30", "24:00:00-15:59", "00:00:00.123456+00")),
    "timestamp": (
        "timestamp",
        [
            ("'2026-11-24 01:02:03'", datetime(2026, 11, 24, 1, 2, 3)),
            ("'9999-12-31 23:59:59.999999'", datetime(9999, 12, 31, 23, 59, 59, 999999)),
            ("'0001-01-01 00:00:00.1'", datetime(1, 1, 1, 0, 0, 0, 100000)),
            *same("infinity", "-infinity", "0044-03-15 00:00:00 BC", "10000-01-01 00:00:00"),
            *same("294276-12-31 23:59:59.999999"),
        ],
    ),
    "timestamptz": (
        "timestamptz",
        [
            ("'2026-11-24 01:02:03+02'", datetime(2026, 11, 23, 23, 2, 3, tzinfo=UTC)),
            ("'2026-11-24 01:02:03.5Z'", datetime(2026, 11, 24, 1, 2, 3, 500000, tzinfo=UTC)),
            ("'2026-11-24 01:02:03.123456Z'", datetime(2026, 11, 24, 1, 2, 3, 123456, tzinfo=UTC)),
            *same("infinity", "-infinity", "0044-03-15 00:00:00+00 BC"),
            *same("0044-03-15 00:00:00.123+00 BC", "294276-12-31 23:59:59.999999+00"),
            *same("10000-01-01 00:00:00+00", "10000-01-01 00:00:00.12345+00"),
        ],
    ),
    "interval": ("interval", same("1 year 2 mons 3 days 04:05:06.789", "-00:00:01", "00:00:00")),
    "uuid": (
        "uuid",
        [("'00112233-4455-6677-8899-AABBCCDDEEFF'", UUID("00112233-4455-6677-8899-aabbccddeeff"))],
    ),
    "json": (
        "json",
        [(quoted(text), Json(text)) for text in ('{"a" :  1.0}', "null", '"\\ud800"', '"ü\\u0000"')]
        + [("E'{\\n\"a\":\\r\\n\\t[1, 2]}'", Json('{\n"a":\r\n\t[1, 2]}'))]
        + [("'1e400'", Json("1e400"))],
    ),
    "jsonb": (
        "json",
        [
            ('\'{"b":1,"a":"\\n"}\'', Json('{"a": "\\n", "b": 1}')),
            ("'null'", Json("null")),
            (f"'{LONG}'", Json(LONG)),
        ],
    ),
    "inet": ("other", same("10.0.0.1", "::1/64")),
    "cidr": ("other", same("10.0.0.0/8")),
    "macaddr": ("other", same("08:00:2b:01:02:03")),
    "money": ("other", [("'1234.5'::numeric::money", "$1,234.50")]),
    "bit(4)": ("bit", same("1010")),
    "varbit": ("bit", same("", "101")),
    "point": ("other", same("(1,2.5)")),
    "box": ("other", same("(3,4),(1,2)")),
    "tsvector": ("other", [("'b a:1'", "'a':1 'b'")]),
    "int4range": ("other", same("[1,5)", "empty")),
    "mood": ("enum", same("sad", 'he said "hi", {x}')),
    "positive": ("int32", [("7", 7)]),
    "tags": ("array(string)", [("'{a,NULL}'", ["a", None])]),
    "pair": ("other", [("ROW(1, 'a,\"b')", '(1,"a,""b")')]),
    "json_like.json": ("other", [("ROW('x')", "(x)")]),
    "integer[]": (
        "array(int32)",
        [("'{}'", []), ("'{{1,2},{3,NULL}}'", [[1, 2], [3, None]]), *same("[0:1]={7,8}")],
    ),
    "text[]": ("array(string)", [('\'{NULL,"NULL",""}\'', [None, "NULL", ""])]),
}
OWN = """CREATE TYPE mood AS ENUM ('sad', 'he said "hi", {x}');
CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE DOMAIN tags AS text[];
CREATE TYPE pair AS (n int, t text); CREATE SCHEMA json_like; CREATE TYPE json_like.json AS (t text)
"""
HAS_ARRAY = [name for name in TYPES if not name.endswith("[]") and name != "tags"]


def table(number: int) -> str:
    return f"t{number:02d}"


def statements(first_id: int) -> list[str]:
    """One row per value, and one of nulls; the array column holds all of them."""
    made = []
    for number, (name, (_, cases)) in enumerate(TYPES.items()):
        rows = [f"({first_id + n}, ({text})::{name})" for n, (text, _) in enumerate(cases)]
        insert = f"INSERT INTO {table(number)} (id, v) VALUES {', '.join(rows)}"
        made += [insert, f"INSERT INTO {table(number)} VALUES ({first_id + 999}, NULL)"]
        if name in HAS_ARRAY:
            items = ", ".join(f"({text})::{name}" for text, _ in cases)
            row = f"({first_id + 998}, ARRAY[{items}, NULL]::{name}[])"
            made.append(f"INSERT INTO {table(number)} (id, a) VALUES {row}")
    return made


def create() -> list[str]:
    return OWN.split(";") + [
        f"CREATE TABLE {table(number)} (id int PRIMARY KEY, v {name}"
        + (f", a {name}[])" if name in HAS_ARRAY else ")")
        for number, name in enumerate(TYPES)
    ]


async def collect(dsn: str) -> list[Event]:
    count = len(statements(0)) - len(TYPES) + sum(len(cases) for _, cases in TYPES.values())
    async with running(dsn, batch_events=50) as run:
        await run.until_backfilled()
        sql(dsn, *statements(1000))
        await run.until(lambda: sum(event.op == "c" for event in run.events) >= count)
        return run.events


def exactly(value: Any) -> tuple[str, str]:
    return type(value).__name__, repr(value)


def expected(name: str, number: int) -> tuple[Any, Any]:
    """The values of columns `v` and `a` in the row of that number."""
    cases = TYPES[name][1]
    if number == 998:
        return None, [value for _, value in cases] + [None]
    return (None if number == 999 else cases[number][1]), None


def test_values_agree(each_database: str) -> None:
    sql(each_database, *create(), *statements(0))
    events = asyncio.run(collect(each_database))
    names = list(TYPES)
    wrong, seen = [], set()
    for event in events:
        after = event.after or {}
        name = names[int(event.table.name[1:])]
        batch, number = divmod(after["id"], 1000)
        seen.add((name, event.op))
        assert batch == (event.op == "c")
        column = event.table.columns[1]
        want, many = expected(name, number)
        checks = [(TYPES[name][0], column.type), (exactly(want), exactly(after["v"]))]
        checks.append((exactly(many), exactly(after.get("a"))))
        want_json = json.loads(to_json(dict(after)).encode("latin-1"))
        checks.append((exactly(want_json), exactly(normal(images(event)["after"], want_json))))
        wrong += [(name, event.op, number, *check) for check in checks if check[0] != check[1]]
    assert not wrong
    assert seen == {(name, op) for name in TYPES for op in "cr"}


def normal(value: Any, like: Any) -> Any:
    """PostgreSQL writes whole floats without a fraction; as numbers they are the same."""
    if isinstance(value, dict) and isinstance(like, dict):
        return {name: normal(item, like.get(name)) for name, item in value.items()}
    if isinstance(value, list) and isinstance(like, list):
        return [normal(item, other) for item, other in zip(value, like, strict=True)]
    if isinstance(like, float) and type(value) is int and value == like:
        return like
    return value


def test_text_is_what_select_prints(database: str) -> None:
    """What is carried as text is the server's own text under the pinned settings."""
    sql(database, *create(), *statements(0))
    wrong = []
    with psycopg.connect(database) as connection:
        connection.execute(PIN)
        for number, (name, (_, cases)) in enumerate(TYPES.items()):
            query = f"SELECT id, format('%s', v) FROM {table(number)} WHERE id < 998 ORDER BY id"
            for at, text in connection.execute(query.encode()).fetchall():
                value = cases[at][1]
                if type(value) in (str, Json) and text != value:
                    wrong.append((name, text, value))
    assert not wrong
