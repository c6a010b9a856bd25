"""Malformed messages (P35): refused as such, never a wrong row, never another error."""

from __future__ import annotations

import asyncio
import json
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import running, sql
from tailrace.errors import PermanentError
from tailrace.event import Event
from tailrace.row import Change
from tailrace.schema import Column, TableSchema
from tailrace_postgres import pgoutput
from tailrace_postgres.changes import NewRow, OldNewRow, OldRow
from tailrace_postgres.decoder import Decoder
from tailrace_postgres.lsn import Place
from tailrace_postgres.messages import Messages
from tailrace_postgres.pgoutput import Relation, RelationColumn
from tailrace_postgres.transactions import Assembler
from tailrace_postgres.types import array_kind, scalar_kind

TYPES = ("int4", "text", "numeric", "timestamptz", "bytea", "bool", "float8", "uuid", "jsonb")
VALUES: tuple[bytes | None, ...] = (
    b"7",
    "é€".encode(),
    b"1.50",
    b"2026-11-24 01:02:03.123456+00",
    b"\\x00ff",
    b"t",
    b"1.5",
    b"00112233-4455-6677-8899-aabbccddeeff",
    b'{"a": 1}',
    b"{1,NULL,3}",
    None,
    b"x" * 300,
)
KINDS = [*map(scalar_kind, TYPES), array_kind(scalar_kind("int4")), *[scalar_kind("text")] * 2]
COLUMNS = tuple(Column(f"c{n}", kind.logical, "?") for n, kind in enumerate(KINDS))
DECODER = Decoder(TableSchema("db", "public", "t", COLUMNS, ("c0",)), KINDS)
RELID = 4711
HEADER = struct.pack("!cQQQ", b"w", 0x16B374D848, 0x16B374D848, 0)


def tuple_of(values: tuple[bytes | None, ...]) -> bytes:
    parts = [
        b"n" if value is None else b"t" + struct.pack("!I", len(value)) + value for value in values
    ]
    return struct.pack("!H", len(values)) + b"".join(parts)


ROW = tuple_of(VALUES)
KEY = tuple_of((b"6",) + (None,) * (len(VALUES) - 1))
RELATION = (
    HEADER
    + b"R"
    + struct.pack("!I", RELID)
    + b"public\0t\0d"
    + struct.pack("!H", len(COLUMNS))
    + b"".join(
        struct.pack("!B", n == 0) + f"c{n}".encode() + b"\0" + struct.pack("!Ii", 25, -1)
        for n in range(len(COLUMNS))
    )
)
START = HEADER + b"%b" + struct.pack("!I", RELID)
ROWS = [
    (START % b"I" + b"N" + ROW, NewRow),
    (START % b"U" + b"N" + ROW, NewRow),
    (START % b"U" + b"K" + KEY + b"N" + ROW, OldNewRow),
    (START % b"U" + b"O" + ROW + b"N" + ROW, OldNewRow),
    (START % b"D" + b"K" + KEY, OldRow),
    (START % b"D" + b"O" + ROW, OldRow),
]
OTHERS = [
    (HEADER + b"B" + struct.pack("!QqI", 0x16B374D848, 0, 771), pgoutput.begin),
    (HEADER + b"C" + struct.pack("!BQQq", 0, 1, 2, 3), pgoutput.commit),
    (HEADER + b"T" + struct.pack("!IBI", 1, 0, RELID), pgoutput.truncate),
    (RELATION, pgoutput.relation),
    (HEADER + b"M" + struct.pack("!BQ4sI", 1, 7, b"app\0", 3) + b"{1}", pgoutput.logical_message),
    (struct.pack("!cQqB", b"k", 1, 2, 1), pgoutput.keepalive),
]


def read(message: bytes, kind: type[NewRow] | type[OldNewRow] | type[OldRow]) -> None:
    change = kind(DECODER, message)
    _ = change.json(), change.after, change.before, change.key, change.unavailable


def read_json(change: Change) -> None:
    change.json()


def read_values(change: Change) -> None:
    _ = change.before, change.after


READERS = (read_json, read_values)


@pytest.mark.parametrize(("message", "kind"), ROWS)
def test_whole_rows_read(message: bytes, kind: type[NewRow]) -> None:
    change = kind(DECODER, message)
    told = json.loads(f"{{{change.json()}}}".encode("latin-1"))
    key = 6 if message[25:26] == b"D" and message[30:31] == b"K" else 7
    assert told["key"] == change.key == {"c0": key}
    assert told["unavailable"] == list(change.unavailable)


@pytest.mark.parametrize(("message", "kind"), ROWS)
def test_every_cut_of_a_row_is_refused(message: bytes, kind: type[NewRow]) -> None:
    for end in range(31, len(message)):
        for read_it in READERS:
            with pytest.raises(PermanentError, match=r"16/B374D848"):
                read_it(kind(DECODER, message[:end]))


@pytest.mark.parametrize(("message", "kind"), ROWS)
def test_what_follows_a_row_is_refused(message: bytes, kind: type[NewRow]) -> None:
    for read_it in READERS:
        with pytest.raises(PermanentError, match="follow"):
            read_it(kind(DECODER, message + b"n"))


@pytest.mark.parametrize("count", [0, len(VALUES) - 1, len(VALUES) + 1, len(VALUES) + 256])
def test_another_number_of_columns_is_refused(count: int) -> None:
    wrong = (VALUES * 40)[:count]
    change = NewRow(DECODER, START % b"I" + b"N" + tuple_of(wrong))
    for read_it in READERS:
        with pytest.raises(PermanentError, match=f"{count} columns instead of {len(VALUES)}"):
            read_it(change)


@pytest.mark.parametrize(("message", "parse"), OTHERS)
def test_every_cut_of_a_control_message_is_refused(
    message: bytes, parse: Callable[[bytes], object]
) -> None:
    parse(message)
    for end in range(1, len(message)):
        with pytest.raises(PermanentError):
            parse(message[:end])


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_flipped_bytes_raise_nothing_else(data: st.DataObject) -> None:
    message, kind = data.draw(st.sampled_from(ROWS + OTHERS))
    spoiled = bytearray(message)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(26, len(message) - 1)) if len(message) > 26 else 1
        spoiled[at] = data.draw(st.integers(0, 255))
    with suppress(PermanentError):
        if kind in (NewRow, OldNewRow, OldRow):
            read(bytes(spoiled), kind)
        else:
            kind(bytes(spoiled))


def described() -> Assembler:
    assembler = Assembler("pg:1", Place(0), deque(), Messages("db", deliver=True))
    columns = tuple(RelationColumn(c.name, 25, -1, c.name == "c0") for c in COLUMNS)
    assembler.describe(Relation(RELID, "public", "t", "d", columns), DECODER)
    return assembler


def fed(assembler: Assembler, *messages: bytes) -> list[Event]:
    waiting = deque(messages)

    def receive(_: int) -> tuple[int, memoryview]:
        data = waiting.popleft() if waiting else b""
        return len(data), memoryview(data)

    events: list[Event] = []
    assembler.take(receive, lambda: None, events, 100, 1 << 20)
    return events


@pytest.mark.parametrize("message", [ROWS[0][0], OTHERS[2][0]])
def test_a_row_outside_of_a_transaction_is_refused(message: bytes) -> None:
    for before in ([], [OTHERS[0][0], OTHERS[1][0]]):
        with pytest.raises(PermanentError, match="out of its place"):
            fed(described(), *before, message)


@pytest.mark.parametrize("kind", [b"I", b"U", b"D"])
def test_a_row_of_an_undescribed_relation_is_refused(kind: bytes) -> None:
    row = HEADER + kind + struct.pack("!I", 1) + b"N" + ROW
    with pytest.raises(PermanentError):
        fed(described(), OTHERS[0][0], row)


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_spoiled_stream_raises_nothing_else(data: st.DataObject) -> None:
    rows = [row for row, _ in ROWS]
    begin, commit, truncate, _, emitted, keepalive = [other for other, _ in OTHERS]
    stream = [begin, *rows, truncate, emitted, commit, keepalive]
    at = data.draw(st.integers(0, len(stream) - 1))
    message = bytearray(stream[at])
    message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    stream[at] = bytes(message)[: data.draw(st.integers(1, len(message)))]
    with suppress(PermanentError):
        for event in fed(described(), *stream):
            event.change.json()


COMMON = "(id int PRIMARY KEY, t text, n numeric, f float8, b bytea, i bigint, a text[], j jsonb)"
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)
ROWS_OF_VALUES = st.lists(
    st.tuples(
        TEXT | st.none(),
        st.decimals(allow_nan=False, allow_infinity=False, places=5) | st.none(),
        st.floats(allow_nan=False) | st.none(),
        st.binary(max_size=300) | st.none(),
        st.integers(-(2**63), 2**63 - 1) | st.none(),
        st.lists(TEXT | st.none(), max_size=4) | st.none(),
        st.recursive(TEXT | st.integers(-9, 9) | st.none(), st.lists, max_leaves=4),
    ),
    min_size=20,
    max_size=60,
)


@settings(deadline=None, max_examples=1, database=None)
@given(rows=ROWS_OF_VALUES)
def fill_and_compare(dsn: str, rows: list[tuple[object, ...]]) -> None:
    async def scenario() -> list[Event]:
        async with running(dsn) as run:
            await run.until_backfilled()
            with psycopg.connect(dsn) as connection:
                connection.execute("TRUNCATE t")
                for n, row in enumerate(rows):
                    values = (n, *row[:-1], json.dumps(row[-1]))
                    marks = "%s, %s, %s, %s, %s, %s, %s::text[], %s::jsonb"
                    connection.execute(f"INSERT INTO t VALUES ({marks})".encode(), values)
            await run.until(lambda: run.events and run.events[-1].op == "c")
            await run.until(lambda: (run.events[-1].key or {})["id"] == len(rows) - 1)
            return [event for event in run.events if event.op == "c"]

    events = asyncio.run(scenario())
    assert len(events) == len(rows)
    for event, row in zip(events, rows, strict=True):
        assert event.after
        assert tuple(event.after.values())[1:-1] == row[:-1]
        assert event.after["j"].load() == row[-1]


def test_any_row_reads_as_it_was_written(database: str) -> None:
    sql(database, f"CREATE TABLE t {COMMON}")
    fill_and_compare(database)
