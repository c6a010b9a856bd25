"""What the demo's subscriber has received: each change once, when, and how late."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

WORDS = {"r": "read", "c": "insert", "u": "update", "d": "delete", "t": "truncate"}


class Origin(msgspec.Struct):
    """An event's `source`, as far as the demo shows it."""

    table: str
    txid: str | None = None


class Change(msgspec.Struct):
    """An event in the format `json`, as far as the demo shows it."""

    id: str
    op: str
    ts: datetime
    source: Origin
    key: dict[str, Any] | None = None
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


class Arrival(msgspec.Struct):
    """A change, and when (seconds since 1970) it was received."""

    change: Change
    at: float

    @property
    def late(self) -> float:
        """Seconds from the commit to the subscriber."""
        return self.at - self.change.ts.timestamp()


class Received:
    """Counts what arrives. A repeat, which at-least-once allows, is no other change."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.repeats = 0
        self.shown: asyncio.Queue[Arrival] = asyncio.Queue()
        self.last: Arrival | None = None
        self._ids: set[str] = set()
        self._decode = msgspec.json.Decoder(Change).decode

    def __len__(self) -> int:
        return len(self._ids)

    def take(self, body: bytes, show: bool) -> None:
        """Take one message; `show` puts it into `shown`, too."""
        now = time.time()
        change = self._decode(body)
        if change.id in self._ids:
            self.repeats += 1
            return
        self._ids.add(change.id)
        self.last = Arrival(change, now)
        self.counts[change.source.table, change.op] += 1
        if show:
            self.shown.put_nowait(self.last)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
