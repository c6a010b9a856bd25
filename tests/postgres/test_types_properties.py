"""Any text, document or array reads as the server has it: in COPY's lines and in the log."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from reexpression import members
from tailrace.schema import Column, TableSchema
from tailrace.values import Json
from tailrace_postgres.changes import CopiedRow, NewRow
from tailrace_postgres.decoder import Decoder
from tailrace_postgres.types import Kind, array_kind, scalar_kind
from typetable import quoted

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
bulk = settings(
    deadline=None,
    max_examples=10,
    database=None,
    phases=[Phase.generate],  # a value that fails is named; shrinking the others takes minutes
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)

XLOG_HEADER = bytes(25)


class Wire:
    """A table of one column `v`, filled and read as a whole: a round trip for many values."""

    def __init__(self, connection: psycopg.Connection[Any], type: str, kind: Kind) -> None:
        self.connection = connection
        self._type = type
        schema = TableSchema("db", "public", "t", (Column("v", kind.logical, type),))
        self._decoder = Decoder(schema, [kind])

    def changes(self, literals: list[str]) -> list[tuple[CopiedRow, NewRow]]:
        """Each value as the backfill and as the stream would get it."""
        run = self.connection.execute
        run("TRUNCATE t")
        insert = f"INSERT INTO t SELECT v::{self._type} FROM unnest(%s::text[]) v"
        run(insert.encode(), [literals])
        with self.connection.cursor().copy("COPY t TO STDOUT") as copy:
            lines = [bytes(line) for line in copy]
        log = run(
            "SELECT data FROM pg_logical_slot_get_binary_changes("
            "'wire', NULL, NULL, 'proto_version', '1', 'publication_names', 'wire')"
        ).fetchall()
        inserted = [XLOG_HEADER + bytes(data) for (data,) in log if data[:1] == b"I"]
        return [
            (CopiedRow(self._decoder, line), NewRow(self._decoder, message))
            for line, message in zip(lines, inserted, strict=True)
        ]

    def read(self, literals: list[str]) -> Iterator[tuple[Any, str]]:
        """Each value, and its JSON to the letter; the same from both."""
        for copied, streamed in self.changes(literals):
            text = f"{{{copied.json()}}}"
            assert streamed.json() == copied.json()
            assert "\n" not in text
            assert copied.after == streamed.after
            assert copied.after is not None
            told = members(text.encode("latin-1").decode())
            yield copied.after["v"], members(told["after"])["v"]


@contextmanager
def wire(dsn: str, type: str, kind: Kind) -> Iterator[Wire]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE t (v {type})".encode())
        connection.execute("CREATE PUBLICATION wire FOR TABLE t WITH (publish = 'insert')")
        connection.execute("SELECT pg_create_logical_replication_slot('wire', 'pgoutput', true)")
        yield Wire(connection, type, kind)


def test_any_text(database: str) -> None:
    with wire(database, "text", scalar_kind("text")) as made:

        @bulk
        @given(st.lists(TEXT, min_size=50, max_size=80))
        def check(texts: list[str]) -> None:
            for text, (value, told) in zip(texts, made.read(texts), strict=True):
                assert value == text
                assert json.loads(told) == text

        check()


SPACE = st.text(" \t\r\n", max_size=2)
ESCAPES = st.sampled_from(["\\n", "\\/", '\\"', "\\\\", "\\u0000", "\\ud800", "\\udc00", "\\u00E9"])
PLAIN = TEXT.map(lambda text: json.dumps(text, ensure_ascii=False)[1:-1])
STRING = st.lists(ESCAPES | PLAIN, max_size=4).map(lambda parts: '"' + "".join(parts) + '"')
NUMBER = st.from_regex(
    r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,5})?", fullmatch=True
)
SCALAR = STRING | NUMBER | st.sampled_from(["true", "false", "null"])


def container(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    spaced = st.tuples(SPACE, inner, SPACE).map("".join)
    pairs = st.tuples(SPACE, STRING, SPACE, st.just(":"), spaced).map("".join)
    array = st.lists(spaced, max_size=3).map(lambda items: f"[{','.join(items)}]")
    return array | st.lists(pairs, max_size=3).map(lambda items: f"{{{','.join(items)}}}")


DOCUMENT = st.recursive(SCALAR, container, max_leaves=6)


def test_any_json_document_to_the_letter(database: str) -> None:
    with wire(database, "json", scalar_kind("json")) as made:

        @bulk
        @given(st.lists(st.tuples(SPACE, DOCUMENT, SPACE).map("".join), min_size=50, max_size=80))
        def check(documents: list[str]) -> None:
            for document, (value, told) in zip(documents, made.read(documents), strict=True):
                assert type(value) is Json
                assert value == document
                assert told == document.translate({10: " ", 13: " "}).strip()

        check()


def test_any_jsonb_document(database: str) -> None:
    values = st.recursive(
        TEXT | st.integers() | st.booleans() | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=6,
    )
    with wire(database, "jsonb", scalar_kind("jsonb")) as made:

        @bulk
        @given(st.lists(values, min_size=50, max_size=80))
        def check(documents: list[Any]) -> None:
            read = made.read([json.dumps(document) for document in documents])
            for document, (value, told) in zip(documents, read, strict=True):
                assert value.load() == json.loads(told) == document

        check()


@st.composite
def arrays(draw: st.DrawFn) -> tuple[str, Any]:
    """A literal, and what it reads as: nested lists, with odd bounds the server's own text."""
    lengths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    lower = draw(st.none() | st.lists(st.integers(-9, 9), min_size=3, max_size=3))
    count = math.prod(lengths)
    items: Any = draw(st.lists(TEXT | st.none(), min_size=count, max_size=count))
    texts = ["NULL" if item is None else quoted(item) for item in items]
    for length in reversed(lengths):
        items = [items[at : at + length] for at in range(0, len(items), length)]
        texts = [f"{{{','.join(texts[at : at + length])}}}" for at in range(0, len(texts), length)]
    bounds = [f"[{low}:{low + n - 1}]" for low, n in zip(lower or (), lengths, strict=False)]
    odd = any(low != 1 for low in (lower or ())[: len(lengths)])
    return (f"{''.join(bounds)}={texts[0]}", None) if odd else (texts[0], items[0])


def test_any_array(database: str) -> None:
    printed = "SELECT format('%s', v) FROM t"
    with wire(database, "text[]", array_kind(scalar_kind("text"))) as made:

        @bulk
        @given(st.lists(arrays() | st.just(("{}", [])), min_size=50, max_size=80))
        def check(drawn: list[tuple[str, Any]]) -> None:
            read = list(made.read([literal for literal, _ in drawn]))
            texts = [text for (text,) in made.connection.execute(printed)]
            for (_, items), text, (value, told) in zip(drawn, texts, read, strict=True):
                assert value == json.loads(told) == (text if items is None else items)

        check()
