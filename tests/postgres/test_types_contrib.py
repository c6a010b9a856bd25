"""Types of extensions, and XML: on the one server here that has them, PostgreSQL 15."""

from __future__ import annotations

import asyncio

import pytest

from agreement import agree
from pipelines import running, sql
from tailrace.event import Event
from typetable import DDL, TYPES, Type

EXTENSIONS = ("hstore", "citext", "ltree", "cube", "isn", "intarray", "seg", "lo")
"""They lie in a schema that no search path names."""

CREATE = "CREATE SCHEMA ext; " + "; ".join(
    f"CREATE EXTENSION {extension} SCHEMA ext" for extension in EXTENSIONS
)

CONTRIB = [
    Type("ext.citext", "string", ("", "Größe", 'a "b"\n')),
    Type("ext.hstore", "other", ("", 'a=>NULL, "b c"=>"d\\"e\\\\", ü=>"€\n"')),
    Type("ext.ltree", "other", ("", "Top.Science.Astronomy")),
    Type("ext.lquery", "other", ("Top.*{1,2}.!Hobbies|x@",)),
    Type("ext.ltxtquery", "other", ("Europe & Russia*@ & !Transportation",)),
    Type("ext.cube", "other", ("(0,0.1),(1e300,3)", "()")),
    Type("ext.seg", "other", ("1.50 .. 2e5", "~6.5", "< 1")),
    Type("ext.ean13", "other", ("978-0-393-04002-9",)),
    Type("ext.isbn", "other", ("978-0-393-04002-9",)),
    Type("ext.query_int", "other", ("1&(2|3)",)),
    Type("ext.lo", "uint32", ("4294967295",)),
    Type("xml", "other", ("<a>é &amp;\n<b/></a>", '<?xml version="1.0"?><x/>', "text")),
]


def test_p29_values_of_extensions(database15: str) -> None:
    agree(database15, [*TYPES, *CONTRIB], f"{CREATE}; {DDL}")


@pytest.mark.parametrize("key", ["ext.citext", "ext.ltree"])
@pytest.mark.parametrize("columns", ["(v)", "(n, v)"])
def test_keys_compare_as_their_type_does(database15: str, key: str, columns: str) -> None:
    """As text they would have another order, and a chunk would begin at the wrong row."""
    sql(database15, *CREATE.split(";"))
    sql(database15, f"CREATE TABLE t (n int, v {key}, PRIMARY KEY {columns})")
    names = ["a", "B", "c", "D", "e", "a.b", "A_", "a_c"]
    sql(database15, f"INSERT INTO t SELECT 1, v FROM unnest(%s::{key}[]) v", values=[names])

    async def scenario() -> list[Event]:
        async with running(database15, snapshot_chunk=2) as run:
            await run.until_backfilled()
            return run.events

    events = asyncio.run(scenario())
    assert sorted((event.after or {})["v"] for event in events) == sorted(names)
