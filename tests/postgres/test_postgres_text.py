"""Values become again what the server prints of them."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from math import isfinite
from typing import Any

import psycopg
from psycopg import sql as SQL

from pipelines import delivered_once
from tailrace.formats.postgres_text import as_text

SESSION = (
    "-c datestyle=ISO -c timezone=UTC -c extra_float_digits=3 -c bytea_output=hex"
    " -c intervalstyle=postgres -c lc_monetary=C"
)
CHARACTERS = ' ,;{}"\\\t\n\v\fNULnul0aé\u00a0\u2003'

made = random.Random(7)


def floats(layout: str) -> Callable[[], float]:
    def make() -> float:
        size = struct.calcsize(layout)
        while not isfinite(value := struct.unpack(layout, made.randbytes(size))[0]):
            pass
        return float(made.choice([value, round(value), made.randrange(10**17) / 100]))

    return make


def text() -> str:
    return "".join(made.choices(CHARACTERS, k=made.randrange(6)))


def moment() -> str:
    year, month, second = made.randrange(1, 9999), made.randrange(1, 9), made.randrange(9)
    fraction = made.choice(["", ".5", ".123456", ".120000", ".000001"])
    return f"{year:04}-0{month}-1{month} 07:08:0{second}{fraction}"


def array(item: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: [made.choice([None, item()]) for _ in range(made.randrange(4))]


COLUMNS: dict[str, Callable[[], Any]] = {
    "float4": floats(">f"),
    "float8": floats(">d"),
    "numeric": lambda: f"{made.randrange(-(10**30), 10**30)}e{made.randrange(-40, 40)}",
    "numeric(20,4)": lambda: made.randrange(10**9) / 100,
    "bool": lambda: made.random() < 0.5,
    "int8": lambda: made.randrange(-(2**63), 2**63),
    "text": text,
    "char(8)": text,
    "bytea": lambda: made.randbytes(4),
    "date": lambda: moment()[:10],
    "time": lambda: moment()[11:],
    "timetz": lambda: moment()[11:] + "+02",
    "timestamp": moment,
    "timestamptz": lambda: moment() + made.choice(["+00", "+02", "-03:30"]),
    "interval": lambda: f"{made.randrange(400)} days {made.randrange(10**6)} seconds",
    "jsonb": lambda: '{"a": [1, 2.50], "b": "x,y"}',
    "uuid": lambda: made.randbytes(16).hex(),
    "int4range": lambda: f"[{made.randrange(9)},10)",
    "float4[]": array(floats(">f")),
    "float8[]": array(floats(">d")),
    "bool[]": array(lambda: made.random() < 0.5),
    "text[]": array(text),
    "bytea[]": array(lambda: made.randbytes(3)),
    "timestamptz[]": array(lambda: moment() + "+00"),
    "date[]": array(lambda: moment()[:10]),
    "numeric[]": array(lambda: f"{made.randrange(10**9)}.50"),
    "jsonb[]": array(lambda: '{"a": "b c"}'),
    "uuid[]": array(lambda: made.randbytes(16).hex()),
    "box[]": lambda: made.choice(["{(3,4),(1,2);NULL}", "{}", "{(1,1),(0,0)}"]),
    "int4[]": lambda: made.choice(["{{1,2},{3,NULL}}", "[2:3]={5,6}", "{}", "{{{7}}}"]),
}
SPECIAL = [
    {"float4": "NaN", "float8": "-Infinity", "numeric": "NaN", "timestamptz": "infinity"},
    {"float4": "-0", "float8": "1e15", "date": "4713-01-01 BC", "time": "24:00"},
    {"float4": "1e6", "float8": "123456789012345", "timestamp": "294276-12-31 23:59:59.999999"},
    {"float4": "999999", "float8": "0.0001", "date": "infinity", "numeric": "0.000"},
    {"float4": "1e-5", "float8": "0.00001", "text[]": '{null,NULL,"null",""}'},
]


def fill(dsn: str) -> list[tuple[str | None, ...]]:
    """A row for each set of values; how the server prints them."""
    shown = SQL.SQL("CASE WHEN num_nulls({0}) = 0 THEN format('%s', {0}) END")
    rows = SPECIAL + [{name: make() for name, make in COLUMNS.items()} for _ in range(200)]
    with psycopg.connect(dsn, options=SESSION, autocommit=True) as connection:
        columns = ", ".join(f'"{name}" {name}' for name in COLUMNS)
        connection.execute(f"CREATE TABLE t (id serial PRIMARY KEY, {columns})".encode())
        for row in rows:
            names = ", ".join(f'"{name}"' for name in row)
            values = ", ".join(f"%s::{name}" for name in row)
            insert = f"INSERT INTO t ({names}) VALUES ({values})"
            connection.execute(insert.encode(), list(row.values()))
        all_shown = SQL.SQL(", ").join(shown.format(SQL.Identifier(name)) for name in COLUMNS)
        return connection.execute(
            SQL.SQL("SELECT {} FROM t ORDER BY id").format(all_shown)
        ).fetchall()


def test_values_become_again_what_the_server_prints(database: str) -> None:
    printed = fill(database)
    events = delivered_once(database)
    assert len(events) == len(printed)
    logical = {column.name: column.type for column in events[0].table.columns}
    for event, texts in zip(events, printed, strict=True):
        assert event.after
        for name, expected in zip(COLUMNS, texts, strict=True):
            value = event.after[name]
            delimiter = ";" if name == "box[]" else ","
            got = None if value is None else as_text(value, logical[name], delimiter)
            assert got == expected, (name, value)
