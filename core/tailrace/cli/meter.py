"""What a running pipeline's figures say: rate, lag, backfill. No I/O, no output."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from tailrace.stats import Stats


_LONG = 60.0
_SHORT = 2.0
"""Seconds over which the backfill's pace is taken, and which it takes to be one."""


class Reading(Struct, frozen=True):
    """A pipeline at one moment.

    `lag` is how old the newest change was when it was seen to be delivered, `idle` how long ago
    that was; None before the first. `rows` of about `expected` are backfilled; the rest takes about
    `left` seconds more, None if that cannot be told.
    """

    name: str
    events: int
    rate: float
    size: int
    lag: float | None
    idle: float | None
    rows: int
    expected: int
    left: float | None
    tables: int
    tables_done: int
    position: str
    error: str
    retries: int

    @property
    def backfill(self) -> str:
        """Empty without one."""
        if not self.tables:
            return ""
        if self.tables_done == self.tables:
            return f"{self.rows:,} rows, done"
        if not self.expected:
            return f"{self.rows:,} rows so far"
        left = "" if self.left is None else f", about {span(self.left)} left"
        return f"{self.rows:,} of ~{max(self.expected, self.rows):,} rows{left}"

    def text(self) -> str:
        """One line, for the log."""
        parts = [f"{self.events:,} events", f"{self.rate:,.0f}/s"]
        if self.lag is not None and self.idle is not None:
            parts += [f"lag {span(self.lag)}", f"last change {span(self.idle)} ago"]
        if self.backfill:
            parts.append(f"backfill {self.backfill}")
        if self.error:
            parts.append(f"last error: {self.error}")
        return f"{self.name}: {', '.join(parts)}"


class Meter:
    """Watches one pipeline's figures. `look` often, `read` when somebody wants to know."""

    def __init__(self, name: str, stats: Callable[[], Stats], window: float) -> None:
        self.name = name
        self._stats = stats
        self._window = window
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), stats().events)])
        self._read: deque[tuple[float, int]] = deque([(time.monotonic(), _rows(stats()))])
        self._newest = 0
        self._lag: float | None = None

    def look(self) -> None:
        """Note the count, and the lag if something newer has been delivered since."""
        now, stats = time.monotonic(), self._stats()
        for seen, count, window in (
            (self._seen, stats.events, self._window),
            (self._read, _rows(stats), _LONG),
        ):
            seen.append((now, count))
            while len(seen) > 2 and seen[1][0] < now - window:
                seen.popleft()
        if stats.last_ts > self._newest:
            self._newest = stats.last_ts
            self._lag = self._age()

    def read(self) -> Reading:
        stats = self._stats()
        tables, rows, expected = stats.tables, _rows(stats), sum(stats.estimates.values())
        return Reading(
            name=self.name,
            events=stats.events,
            rate=_pace(self._seen),
            size=stats.bytes,
            lag=self._lag,
            idle=self._age() if self._newest else None,
            rows=rows,
            expected=expected,
            left=_left(self._read, expected - rows),
            tables=len(tables.keys() | stats.estimates.keys()),
            tables_done=sum(progress.done for progress in tables.values()),
            position=str(stats.position),
            error=stats.error,
            retries=stats.retries,
        )

    def _age(self) -> float:
        return max(0.0, time.time() - self._newest / 1e6)


def _rows(stats: Stats) -> int:
    """Rows backfilled of the tables that this run reads."""
    tables = stats.tables
    return sum(tables[label].rows for label in stats.estimates if label in tables)


def _pace(seen: deque[tuple[float, int]]) -> float:
    (begin, first), (end, last) = seen[0], seen[-1]
    return (last - first) / (end - begin) if end > begin else 0.0


def _left(seen: deque[tuple[float, int]], rows: int) -> float | None:
    """Seconds for `rows` more at the pace so far; None before that says anything."""
    pace = _pace(seen) if seen[-1][0] - seen[0][0] >= _SHORT else 0.0
    return rows / pace if rows > 0 and pace > 0 else None


def span(seconds: float) -> str:
    """``0.25 s``, ``12 s``, ``3 min``, ``5 h``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
