"""The format wal-listener: what the recording does not show."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from tailrace.event import Event, Op, Position, Transaction
from tailrace.formats.wal_listener import WalListenerConfig, WalListenerFormat
from tailrace.row import Images
from tailrace.schema import Column, TableSchema
from tailrace.values import Json

FORMAT = WalListenerFormat(WalListenerConfig(), name="orders", connector="postgres")
TRANSACTION = Transaction(Position("0/1A2B3C8"), 1_763_880_247_820_000, "771")


def table(*columns: Column) -> TableSchema:
    return TableSchema("shop", "public", "orders", columns, (columns[0].name,))


ORDERS = table(
    Column("id", "int64", "bigint"),
    Column("paid", "bool", "boolean"),
    Column("note", "string", "text"),
)


def event(op: Op, change: Images, of: TableSchema = ORDERS) -> Event:
    return Event("pg:1:0/1A2B3C8:4", op, of, change, TRANSACTION)


def body(op: Op, change: Images, of: TableSchema = ORDERS) -> str:
    (message,) = FORMAT.encode([event(op, change, of)])
    return message.body.decode()


def written(value: Any, logical: str, db_type: str) -> str:
    """How one value is written."""
    text = body("c", Images(None, None, {"v": value}), table(Column("v", logical, db_type)))
    return text.partition('"data":{"v":')[2].partition('},"dataOld"')[0]


ROW = {"id": 1, "paid": True, "note": "a"}
DATA = '{"id":1,"note":"a","paid":true}'


@pytest.mark.parametrize(
    ("op", "change", "action", "data", "old"),
    [
        ("c", Images({"id": 1}, None, ROW), "INSERT", DATA, "{}"),
        ("r", Images({"id": 1}, None, ROW), "INSERT", DATA, "{}"),
        ("u", Images({"id": 1}, ROW, ROW), "UPDATE", DATA, DATA),
        (
            "u",
            Images({"id": 2}, {"id": 1}, {"id": 2, "paid": None}, ("note",)),
            "UPDATE",
            '{"id":2,"paid":null}',
            '{"id":1,"note":null,"paid":null}',
        ),
        (
            "d",
            Images({"id": 1}, {"id": 1}, None),
            "DELETE",
            "{}",
            '{"id":1,"note":null,"paid":null}',
        ),
        ("t", Images(), "TRUNCATE", "{}", "{}"),
    ],
)
def test_an_event_of_each_kind(op: Op, change: Images, action: str, data: str, old: str) -> None:
    assert body(op, change) == (
        '{"id":"038cd8e0-7a81-50e6-b172-06622ad8f10e","schema":"public","table":"orders",'
        f'"action":"{action}","data":{data},"dataOld":{old},'
        '"commitTime":"2025-11-23T06:44:07.82Z"}'
    )


def test_messages_and_schema_changes_are_left_out() -> None:
    batch = [event("m", Images()), event("c", Images({"id": 1}, None, ROW)), event("s", Images())]
    (message,) = FORMAT.encode(batch, keyed=True)
    assert list(message.events) == [batch[1]]
    assert message.key == b'{"id":1}'


def test_the_id_is_made_of_the_events() -> None:
    one = event("c", Images({"id": 1}, None, ROW))
    other = Event("pg:1:0/1A2B3C8:5", "c", ORDERS, one.change, TRANSACTION)
    first, again, second = (json.loads(m.body)["id"] for m in FORMAT.encode([one, one, other]))
    assert first == again != second
    assert UUID(first).version == 5


@pytest.mark.parametrize(
    ("value", "logical", "db_type", "expected"),
    [
        (5, "int32", "integer", "5"),
        (5, "int32", "posint", '"5"'),
        (5, "uint32", "oid", '"5"'),
        (True, "bool", "flag", '"t"'),
        (Json('{"a": 1}'), "json", "json", r'"{\"a\": 1}"'),
        (Json('{"a": 1}'), "json", "document", r'"{\"a\": 1}"'),
        (Json('{"b": [1.50, 0.0, 10], "a": {}}'), "json", "jsonb", '{"a":{},"b":[1.5,0,10]}'),
        (Json('"<\\u0041>"'), "json", "jsonb", r'"\u003cA\u003e"'),
        (Json("9007199254740993"), "json", "jsonb", "9007199254740993"),
        (Json("[null, true, false]"), "json", "jsonb", "[null,true,false]"),
        (Json("1" * 5_000), "json", "jsonb", "1" * 5_000),
        (datetime(2021, 1, 2, 3, 4, 5), "timestamp", "timestamp without time zone",
         '"2021-01-02T03:04:05Z"'),
        (datetime(2021, 1, 2, 3, 4, 5, 10, UTC), "timestamptz", "timestamp(6) with time zone",
         '"2021-01-02T03:04:05.00001Z"'),
        (datetime(2021, 1, 2, 3, 4, 5, 0, UTC), "timestamptz", "moment",
         '"2021-01-02 03:04:05+00"'),
        ([datetime(2021, 1, 2)], "array(timestamp)", "timestamp without time zone[]",
         r'"{\"2021-01-02 00:00:00\"}"'),
        ("infinity", "timestamp", "timestamp without time zone", '"0001-01-01T00:00:00Z"'),
        ("0044-03-15 00:00:00+00 BC", "timestamptz", "timestamp with time zone",
         '"0001-01-01T00:00:00Z"'),
        (["(1,1),(0,0)", None], "array(other)", "box[]", '"{(1,1),(0,0);NULL}"'),
        (b"\x00\xff", "bytes", "bytea", r'"\\x00ff"'),
    ],
)  # fmt: skip
def test_values_are_what_wal_listener_makes_of_them(
    value: Any, logical: str, db_type: str, expected: str
) -> None:
    assert written(value, logical, db_type) == expected


def test_strings_are_escaped_as_go_does() -> None:
    text = 'a"\\/\n\r\t\b\f\x00\x7f<&>é\u2028\u2029😀'
    assert written(text, "string", "text") == (
        r'"a\"\\/\n\r\t\u0008\u000c\u0000' + "\x7f" + r"\u003c\u0026\u003eé\u2028\u2029" + '😀"'
    )


def test_columns_are_sorted_by_their_bytes() -> None:
    names = ["é", "b", "Z", "a<"]
    of = table(*(Column(name, "int32", "integer") for name in names))
    text = body("c", Images(None, None, dict.fromkeys(names, 1)), of)
    assert r'"data":{"Z":1,"a\u003c":1,"b":1,"é":1}' in text
