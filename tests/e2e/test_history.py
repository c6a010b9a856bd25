"""The checker finds what it is there to find."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from e2e.history import Row, Seen, Truth, parse

TRUTH = Truth({"journal_0": {(0, 1), (0, 2)}}, {"accounts_0": {7: 4}})


def body(id: str, table: str, op: str, key: Row, after: Row | None, before: Row | None) -> bytes:
    source = {"table": table}
    event = {"id": id, "op": op, "source": source, "key": key, "before": before, "after": after}
    return json.dumps(event).encode()


def row(id: str, seq: int, op: str = "c") -> bytes:
    key = {"writer": 0, "seq": seq}
    return body(id, "journal_0", op, key, key, None)


def account(id: str, op: str, key: int, version: int | None, old: int | None = None) -> bytes:
    after = None if version is None else {"id": key, "version": version}
    before = None if old is None else {"id": old}
    return body(id, "accounts_0", op, {"id": key}, after, before)


GOOD = [
    row("a", 1),
    row("b", 2),
    account("c", "r", 5, 2),
    account("d", "u", 6, 3, old=5),
    account("e", "u", 7, 4, old=6),
]

Change = Callable[[list[bytes]], list[bytes]]


def check(bodies: list[bytes]) -> list[Seen]:
    seen = parse(bodies)
    TRUTH.check(seen, repeats=1)
    return seen


def test_what_is_right_passes() -> None:
    check([*GOOD, GOOD[0]])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda good: good[1:], "1 rows lost, the first is (0, 1)"),
        (lambda good: [*good, row("f", 3)], "1 rows never committed"),
        (lambda good: [good[1], good[0], *good[2:]], "journal_0: out of order"),
        (lambda good: [*good, row("a", 2)], "id a stands for two events"),
        (lambda good: good + good[:2], "2 events came again, 1 may"),
        (lambda good: good[:-1], "row 6 has version None, by the events 3"),
        (lambda good: [*good, account("g", "r", 7, 1)], "older after newer"),
        (lambda good: [*good, account("g", "d", 7, None)], "row 7 has version 4, by the events No"),
    ],
)
def test_what_is_wrong_does_not(spoil: Change, message: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check(spoil(GOOD))
    assert message in str(caught.value)
