"""The native format, against its schema: real output for every op."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from pipelines import sql
from tailrace.event import OPS, Event, Op, Position, Transaction
from tailrace.formats import Format
from tailrace.formats.json import JsonConfig, JsonFormat
from tailrace.row import Images
from tailrace.schema import TableSchema

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs/formats/event.schema.json").read_text(encoding="utf-8")
)
VALIDATOR = Draft202012Validator(SCHEMA)
TABLE = TableSchema("shop", "public", "orders", (), ("id",))
TRANSACTION = Transaction(Position("0/1A2B3C8"), 1_763_880_247_826_123, "771")
FORMAT = JsonFormat(JsonConfig(), name="orders", connector="postgres")
ROW = {"id": 1, "status": "paid"}
CHANGES: dict[Op, Images] = {
    "c": Images({"id": 1}, None, ROW),
    "u": Images({"id": 1}, {"id": 2}, {"id": 1}, ("status",)),
    "d": Images({"id": 1}, {"id": 1}, None, ("status",)),
    "r": Images({"id": 1}, None, ROW),
    "t": Images(),
    "s": Images(),
    "m": Images(),
}


def event(op: Op, change: Images, **members: Any) -> Event:
    given = {"table": TABLE, "transaction": TRANSACTION, **members}
    return Event("pg:1:0/1A2B3C8:4", op, change=change, **given)


def encoded(*events: Event) -> list[dict[str, Any]]:
    return [json.loads(message.body) for message in FORMAT.encode(events)]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("op", OPS)
def test_every_op_fits_the_schema(op: Op) -> None:
    [told] = encoded(event(op, CHANGES[op], context={"user": "42"}))
    VALIDATOR.validate(told)
    assert told["op"] == op


def test_lines_are_the_bodies_of_the_messages() -> None:
    """By its own short way, and by the way that every format has."""
    events = [event(op, change, context={"user": "é"}) for op, change in CHANGES.items()]
    lines = b"".join(message.body + b"\n" for message in FORMAT.encode(events))
    assert FORMAT.lines(events) == Format.lines(FORMAT, events) == lines
    assert FORMAT.lines([]) == Format.lines(FORMAT, []) == b""


@pytest.mark.parametrize(
    "spoil",
    [
        {"v": 2},
        {"op": "x"},
        {"ts": "2026-11-23 06:44:07"},
        {"after": None},
        {"unavailable": None},
        {"source": {}},
    ],
)
def test_the_schema_refuses(spoil: dict[str, Any]) -> None:
    [told] = encoded(event("c", CHANGES["c"]))
    with pytest.raises(ValidationError):
        VALIDATOR.validate({**told, **spoil})


def test_the_whole_text() -> None:
    [message] = FORMAT.encode([event("u", CHANGES["u"])], keyed=True)
    assert message.body.decode() == (
        '{"v":1,"id":"pg:1:0/1A2B3C8:4","op":"u","ts":"2025-11-23T06:44:07.826123Z",'
        '"source":{"connector":"postgres","name":"orders","db":"shop","schema":"public",'
        '"table":"orders","position":"0/1A2B3C8","txid":"771"},'
        '"key":{"id":1},"before":{"id":2},"after":{"id":1},"unavailable":["status"],'
        '"context":null}'
    )
    assert message.key == b'{"id":1}'


def test_keys_only_where_asked_for() -> None:
    first, second = event("c", CHANGES["c"]), event("t", CHANGES["t"])
    assert [message.key for message in FORMAT.encode([first, second])] == [None, None]
    assert [m.key for m in FORMAT.encode([first, second], keyed=True)] == [b'{"id":1}', None]


def test_what_events_share_changes_with_transaction_and_table() -> None:
    other = TableSchema("shöp", None, 'q"\n\U0001f980', ())
    later = Transaction(Position("0/2"), 0, None)
    told = encoded(
        event("c", CHANGES["c"]),
        event("c", CHANGES["c"], table=other),
        event("c", CHANGES["c"], table=other, transaction=later),
        event("c", CHANGES["c"]),
    )
    for one in told:
        VALIDATOR.validate(one)
    assert [one["source"]["table"] for one in told] == ["orders", *[other.name] * 2, "orders"]
    assert "schema" not in told[1]["source"]
    assert told[1]["source"]["db"] == "shöp"
    assert [one["source"]["txid"] for one in told] == ["771", "771", None, "771"]
    assert told[2]["ts"] == "1970-01-01T00:00:00.000000Z"


def test_names_that_need_escapes() -> None:
    form = JsonFormat(JsonConfig(), name='n"ame', connector="é")
    strange = Event('id"é', "c", TABLE, CHANGES["c"], TRANSACTION)
    told = json.loads(form.encode([strange])[0].body)
    assert (told["id"], told["source"]["name"], told["source"]["connector"]) == (
        'id"é',
        'n"ame',
        "é",
    )


def test_what_postgres_gives_fits_the_schema(database: str) -> None:
    import asyncio

    from pipelines import running

    sql(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, note text)",
        "CREATE TABLE bare (n int)",
        "INSERT INTO t VALUES (1, 'é')",
    )

    async def scenario() -> list[Event]:
        async with running(database) as run:
            await run.until_backfilled()
            sql(
                database,
                "INSERT INTO t VALUES (2, NULL)",
                "UPDATE t SET id = 3 WHERE id = 2",
                "DELETE FROM t WHERE id = 1",
                "INSERT INTO bare VALUES (1)",
                "TRUNCATE t",
            )
            return await run.until_events(6)

    told = encoded(*asyncio.run(scenario()))
    for one in told:
        VALIDATOR.validate(one)
    assert [one["op"] for one in told] == ["r", "c", "u", "d", "c", "t"]
    assert told[0]["source"]["txid"] is None
