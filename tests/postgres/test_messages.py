"""Logical messages (P27): events of their own, or the context of a transaction."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import psycopg
import pytest

from pipelines import Notes, images, in_transaction, running, sql
from sources import events_of, opened, read, started, streamed
from tailrace.event import Event

TABLE = "CREATE TABLE t (id int PRIMARY KEY)"


def emit(prefix: str, content: str, *, transactional: bool = True) -> str:
    return f"SELECT pg_logical_emit_message({transactional}, '{prefix}', '{content}')"


def emitted(dsn: str, *transactions: tuple[str, ...], **keys: Any) -> list[Event]:
    sql(dsn, TABLE)
    return streamed(dsn, *transactions, **keys)


def told(event: Event) -> tuple[str, Any]:
    """A row's number, or a message's content."""
    after = event.after or {}
    return event.op, after["content"].decode() if event.op == "m" else after["id"]


MIXED = (
    emit("app", "first"),
    "INSERT INTO t VALUES (1)",
    emit("app", "between", transactional=False),
    "SAVEPOINT s",
    emit("app", "rolled back"),
    "ROLLBACK TO s",
    emit("app", "second"),
    "INSERT INTO t VALUES (2)",
)


def test_p27_messages_are_events(each_database: str) -> None:
    """One without a transaction comes as soon as it is written, so before the rows around it."""
    events = emitted(each_database, MIXED, messages=True)
    assert [told(event) for event in events] == [
        ("m", "between"),
        ("m", "first"),
        ("c", 1),
        ("m", "second"),
        ("c", 2),
    ]
    between, first, *_ = events
    assert first.table is between.table
    assert first.table.label.endswith(".message")
    assert first.table.path == ("message",)
    assert first.key is None
    assert images(first)["after"] == {
        "prefix": "app",
        "content": "Zmlyc3Q=",
        "transactional": True,
    }
    assert between.after == {"prefix": "app", "content": b"between", "transactional": False}
    assert between.txid is None
    assert [event.id.rsplit(":", 1)[1] for event in events] == ["0", "1", "2", "3", "4"]
    assert len({event.position for event in events[1:]}) == 1
    assert between.position in between.id


def test_p27_messages_that_are_not_asked_for_move_no_ids(database: str) -> None:
    events = emitted(database, MIXED)
    assert [told(event) for event in events] == [("c", 1), ("c", 2)]
    assert [event.id.rsplit(":", 1)[1] for event in events] == ["2", "4"]


def test_p27_messages_of_an_aborted_transaction(database: str) -> None:
    async def scenario() -> list[Event]:
        async with opened(database, messages=True) as source:
            start = await started(source)
            with psycopg.connect(database) as connection:
                for transactional, content in ((True, "gone"), (False, "stays")):
                    connection.execute(emit("app", content, transactional=transactional).encode())
                connection.rollback()
            return events_of(await read(source, start))

    sql(database, TABLE)
    assert [told(event) for event in asyncio.run(scenario())] == [("m", "stays")]


def test_p27_resumed_after_any_message(each_database: str) -> None:
    """From every position the rest follows, nothing lost and nothing under another id."""

    async def scenario() -> None:
        async with opened(each_database, messages=True, batch_events=1) as source:
            start = await started(source)
            for n in range(1, 4):
                in_transaction(
                    each_database,
                    emit("app", f"inside {n}", transactional=False),
                    f"INSERT INTO t VALUES ({n})",
                    emit("app", f"of {n}"),
                    emit("app", f"inside {n} again", transactional=False),
                )
                sql(each_database, *[emit("app", f"{n} {i}", transactional=False) for i in "ab"])
            batches = await read(source, start)
            ids = [event.id for event in events_of(batches)]
            assert len(ids) == len(set(ids)) == 18
            done = 0
            for batch in batches:
                done += len(batch.events)
                rest = events_of(await read(source, batch.position))
                assert [event.id for event in rest] == ids[done:]

    sql(each_database, TABLE)
    asyncio.run(scenario())


def test_p27_restarted_when_the_last_event_was_a_message(database: str) -> None:
    """The pipeline is stopped after each message; the server has heard of its place or not."""
    store = Notes()

    async def scenario() -> list[Event]:
        events: list[Event] = []
        for n in range(4):
            keys = {"messages": True}
            async with running(database, store, snapshot="never", keys=keys) as run:
                await run.streaming()
                sql(database, emit("app", f"{n} seen", transactional=False))
                await run.until_events(1 if n == 0 else 2)
            sql(database, emit("app", f"{n} missed", transactional=False))
            events += run.events
        return events

    sql(database, TABLE)
    contents = [content for _, content in map(told, asyncio.run(scenario()))]
    assert contents == [f"{n} {what}" for n in range(4) for what in ("seen", "missed")][:-1]


CONTEXT = "tailrace.context"


@pytest.mark.parametrize("messages", [True, False])
def test_p27_context_is_that_of_the_events_after_it(database: str, messages: bool) -> None:
    events = emitted(
        database,
        (
            "INSERT INTO t VALUES (1)",
            emit(CONTEXT, '{"user": "42", "n": [1.5, null]}'),
            "INSERT INTO t VALUES (2)",
            "TRUNCATE t",
            emit(CONTEXT, "{}"),
            "INSERT INTO t VALUES (3)",
        ),
        ("INSERT INTO t VALUES (4)",),
        messages=messages,
    )
    context = {"user": "42", "n": [1.5, None]}
    assert [event.op for event in events] == ["c", "c", "t", "c", "c"]
    assert [event.context for event in events] == [None, context, context, {}, None]
    assert [event.id.rsplit(":", 1)[1] for event in events] == ["1", "3", "4", "6", "1"]


def test_p27_context_counts_when_the_transaction_is_resumed(database: str) -> None:
    async def scenario() -> None:
        async with opened(database, batch_events=1) as source:
            start = await started(source)
            in_transaction(
                database,
                emit(CONTEXT, '{"a": 1}'),
                "INSERT INTO t SELECT generate_series(1, 5)",
                emit(CONTEXT, '{"a": 2}'),
                "INSERT INTO t VALUES (0)",
            )
            batches = await read(source, start)
            events = events_of(batches)
            assert [event.context for event in events] == [{"a": 1}] * 5 + [{"a": 2}]
            done = 0
            for batch in batches:
                done += len(batch.events)
                rest = events_of(await read(source, batch.position))
                assert [(e.id, e.context) for e in rest] == [
                    (e.id, e.context) for e in events[done:]
                ]

    sql(database, TABLE)
    asyncio.run(scenario())


NO_CONTEXT = {
    "not JSON": "'{'",
    "an array": "'[1]'",
    "NaN": "'{\"a\": NaN}'",
    "no UTF-8": "'\\xff7b7d'::bytea",
    "UTF-16": "'\\x7b007d00'::bytea",
    "empty": "''",
    "a long number": "'{\"a\": ' || repeat('9', 5000) || '}'",
    "deep": "repeat('[', 100000)",
    "deep enough to be read": "repeat('{\"a\":', 500) || '1' || repeat('}', 500)",
}


def test_p27_what_is_no_context_is_a_message(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    transactions = [
        (f"SELECT pg_logical_emit_message(true, '{CONTEXT}', {content})", "TRUNCATE t")
        for content in NO_CONTEXT.values()
    ]
    with caplog.at_level(logging.WARNING):
        events = emitted(database, *transactions, messages=True)
    assert [event.op for event in events] == ["m", "t"] * len(NO_CONTEXT)
    assert not any(event.context for event in events)
    assert caplog.text.count("not taken as context") == 1


def test_p27_context_outside_of_a_transaction_is_a_message(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    loose = emit(CONTEXT, '{"a": 1}', transactional=False)
    with caplog.at_level(logging.WARNING):
        events = emitted(database, (loose, "INSERT INTO t VALUES (1)"), messages=True)
    assert [told(event) for event in events] == [("m", '{"a": 1}'), ("c", 1)]
    assert [event.context for event in events] == [None, None]
    assert "not taken as context" in caplog.text


def test_p27_a_large_context_counts_in_each_batch(database: str) -> None:
    """Every event repeats it, so that few events fill a batch."""
    content = json.dumps({"a": "x" * 100_000})

    async def scenario() -> None:
        async with opened(database, batch_bytes=1_000_000) as source:
            start = await started(source)
            rows = "INSERT INTO t SELECT generate_series(1, 100)"
            in_transaction(database, emit(CONTEXT, content), rows)
            batches = await read(source, start)
            assert len(events_of(batches)) == 100
            for batch in batches:
                held = sum(
                    len(json.dumps(event.context)) for event in batch.events if event.context
                )
                assert held <= batch.size <= 1_200_000

    sql(database, TABLE)
    asyncio.run(scenario())
