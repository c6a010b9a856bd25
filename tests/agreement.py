"""Whether backfill, stream and SELECT agree about every value of the wide table of `typetable`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from pipelines import running, sql
from reexpression import Cell, as_python, is_json, members, printed
from tailrace.event import Event
from tailrace.values import to_json
from tailrace_postgres.connecting import PIN
from typetable import Column, Type, columns, create, rows

_STREAMED, _MOVED = 1000, 2000


def agree(dsn: str, types: Sequence[Type], ddl: str) -> None:
    """Assert it, for these types and their arrays; `ddl` makes what they need."""
    made = columns(types, _version(dsn))
    sql(dsn, *ddl.split(";"), create(made))
    _insert(dsn, made, 0)
    events = asyncio.run(_events(dsn, made))
    with psycopg.connect(dsn) as connection:
        connection.execute(PIN)
        connection.execute("SET search_path = ''")
        expected = printed(connection, made)
    assert [event.op for event in events] == [op for op in "rcud" for _ in expected]
    different = list(_differences(made, events, expected))
    assert not different, "\n".join(different[:50])


def _version(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        return connection.info.server_version // 10_000


def _insert(dsn: str, made: list[Column], first: int) -> None:
    marks = ", ".join(["%s"] * (len(made) + 1))
    query = f"INSERT INTO t VALUES ({marks})".encode()
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.executemany(query, [(first + n, *row) for n, row in enumerate(rows(made))])


async def _events(dsn: str, made: list[Column]) -> list[Event]:
    """Backfilled, inserted, updated and deleted rows, the latter two with their old values."""
    async with running(dsn) as run:
        await run.until_backfilled()
        sql(dsn, "ALTER TABLE t REPLICA IDENTITY FULL")
        _insert(dsn, made, _STREAMED)
        sql(dsn, f"UPDATE t SET id = id + {_MOVED - _STREAMED} WHERE id >= {_STREAMED}")
        sql(dsn, f"DELETE FROM t WHERE id >= {_MOVED}")
        return await run.until_events(4 * len(rows(made)))


def _differences(
    made: list[Column], events: list[Event], expected: dict[int, dict[str, Cell]]
) -> Iterator[str]:
    for column, seen in zip(made, events[-1].table.columns[1:], strict=True):
        if column.logical != seen.type:
            yield f"{column.type}: {column.logical} is called {seen.type}"
    for event in events:
        for values, raw in _images(event):
            row = expected[values["id"] % _STREAMED]
            for column in made:
                cell, told = row[column.name], raw[column.name]
                want, got = as_python(column.logical, cell), values[column.name]
                if (type(want), repr(want)) != (type(got), repr(got)):
                    yield f"{column.type} ({event.op}): {want!r:.200} reads {got!r:.200}"
                again = to_json(got).encode("latin-1").decode()  # as other formats write it
                for text in (told, again):
                    if not is_json(column.logical, cell, text):
                        yield f"{column.type} ({event.op}): {cell!r:.200} is in JSON {text:.200}"


def _images(event: Event) -> list[tuple[Any, dict[str, str]]]:
    """The event's images of the row: as values, and as raw JSON by column."""
    data = f"{{{event.change.json()}}}".encode("latin-1")
    assert not {*b"\r\n"} & {*data}
    told = members(data.decode())
    return [
        (values, members(told[name]))
        for name, values in (("before", event.before), ("after", event.after))
        if values is not None
    ]
