"""C20: the native format of today is the one that consumers were written for.

``events-v1.jsonl`` is what version 1 looks like, byte for byte. A new minor version may add
members, which an old consumer does not see: then a new file is recorded beside this one, and the
old one must still fit the schema.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import msgspec
from jsonschema import Draft202012Validator

from tailrace.event import OPS, Event, Op, Position, Transaction
from tailrace.formats.json import JsonConfig, JsonFormat
from tailrace.row import Images
from tailrace.schema import TableSchema
from tailrace.values import Json

RECORDED = Path(__file__).with_name("events-v1.jsonl")
SCHEMA = Path(__file__).parents[2] / "docs/formats/event.schema.json"
ORDERS = TableSchema("shop", "public", "orders", (), ("id",))
NOTES = TableSchema("shöp", None, 'no"tes', (), ())
FIRST = Transaction(Position("16/B374D848"), 1_763_880_247_826_123, "771")
SECOND = Transaction(Position("16/B374E000"), 0)

VALUES: dict[str, Any] = {
    "null": None,
    "bool": True,
    "int": 9_223_372_036_854_775_807,
    "float": 1.5,
    "float_nan": "NaN",
    "decimal": Decimal("1234567890.1200"),
    "text": 'a "quoted" é \U0001f980 \\ \n \x01',
    "bytes": b"\x00\xff",
    "date": date(2026, 11, 23),
    "time": time(6, 44, 7, 826),
    "timestamp": datetime(2026, 11, 23, 6, 44, 7),
    "timestamptz": datetime(2026, 11, 23, 6, 44, 7, 826_123, tzinfo=UTC),
    "offset": datetime(2026, 11, 23, 6, 44, tzinfo=timezone(timedelta(hours=2))),
    "infinity": "infinity",
    "uuid": UUID("00112233-4455-6677-8899-aabbccddeeff"),
    "json": Json('{"b": [1, 2.50], "a": null}'),
    "array": [1, None, [2]],
}
KEY = {"id": 1}
EVENTS = [
    Event("pg:1:16/B374D848:1", "c", ORDERS, Images(KEY, None, {"id": 1, **VALUES}), FIRST),
    Event("pg:1:16/B374D848:2", "u", ORDERS, Images(KEY, {"id": 2}, KEY, ("note",)), FIRST),
    Event("pg:1:16/B374D848:3", "d", ORDERS, Images(KEY, KEY, None, ("note",)), FIRST),
    Event("pg:1:16/B374D848:4", "t", ORDERS, Images(), FIRST, {"user": "42"}),
    Event("pg:1:16/B3700000:r:c0ffee", "r", NOTES, Images(None, None, {"note": "é"}), SECOND),
    Event("pg:1:16/B374E000:1", "s", NOTES, Images(), SECOND),
    Event("pg:1:16/B374E000:2", "m", NOTES, Images(), SECOND, {"a": [1, {"b": None}]}),
]


class Origin(msgspec.Struct):
    """What an old consumer reads of ``source``; it knows of nothing else."""

    connector: str
    name: str
    db: str
    table: str
    position: str
    txid: str | None
    schema: str | None = None


class Known(msgspec.Struct):
    """An event as an old consumer reads it."""

    v: Literal[1]
    id: str
    op: Op
    ts: datetime
    source: Origin
    key: dict[str, Any] | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    unavailable: list[str]
    context: dict[str, Any] | None


def told() -> bytes:
    return JsonFormat(JsonConfig(), name="orders", connector="postgres").lines(EVENTS)


def test_c20_events_are_written_as_they_were_recorded() -> None:
    assert told().splitlines() == RECORDED.read_bytes().splitlines()
    assert {event.op for event in EVENTS} == set(OPS)


def test_c20_what_was_recorded_fits_the_schema_of_today() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    for line in RECORDED.read_bytes().splitlines():
        Draft202012Validator(schema).validate(json.loads(line))


def test_c20_an_old_consumer_reads_what_is_written_now_and_what_a_new_version_adds() -> None:
    for line in told().splitlines():
        event = msgspec.json.decode(line, type=Known)
        added = json.loads(line)
        added["later"] = added["source"]["later"] = {"any": 1}
        assert msgspec.json.decode(json.dumps(added), type=Known) == event
