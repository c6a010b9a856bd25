"""What the demo prints: a line per change, in colour on a terminal, and the summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tailrace_demo.received import WORDS, Arrival, Change, Received, percentile

STYLES = {"r": "cyan", "c": "green", "u": "yellow", "d": "red", "t": "bold magenta"}
OWN = (
    "cdc run source=postgres sink=nats"
    " source.dsn=postgresql://USER:PASSWORD@HOST/DATABASE sink.url=nats://HOST:4222"
)


class Screen:
    """Plain lines when piped: no colours, no control codes, nothing cut or wrapped."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str, style: str = "") -> None:
        """A line that is shown whole, however narrow the terminal is."""
        self._console.print(Text(text, style), soft_wrap=True)

    def heading(self, text: str) -> None:
        self.say(f"\n{text}", "bold")

    def change(self, arrival: Arrival) -> None:
        """A row that was read by the backfill has no commit to be late after."""
        change = arrival.change
        late = "" if change.op == "r" else f"{arrival.late * 1000:.1f} ms"
        line = Text()
        line.append(f"{late:>9}  ", "dim")
        line.append(f"{WORDS.get(change.op, change.op):<8}  ", STYLES.get(change.op, ""))
        line.append(f"{change.source.table:<11}  ", "bold")
        line.append(f"tx {change.source.txid or '-':<6} ", "dim")
        line.append(describe(change))
        line.rstrip()
        if self._console.is_terminal:
            self._console.print(line, no_wrap=True, overflow="ellipsis")
        else:
            self._console.print(line, soft_wrap=True)

    def summary(self, received: Received, late: Sequence[float], burst: int) -> None:
        """`late` in seconds; the last `burst` events came from one transaction."""
        assert received.last is not None
        self.heading("Summary")
        self._console.print(_table(received.counts))
        p50, p99 = (percentile(late, share) * 1000 for share in (0.5, 0.99))
        self.say(f"latency  p50 {p50:.1f} ms, p99 {p99:.1f} ms (commit to subscriber)")
        seconds = received.last.late
        self.say(f"burst    {burst / seconds:,.0f} events/s ({burst:,} in {seconds:.2f} s)")
        if received.repeats:
            self.say(f"repeats  {received.repeats:,} (delivery is at least once)")
        self.heading("Now your own database")
        self.say(OWN, "green")


def describe(change: Change) -> str:
    """The row, or what became of it."""
    before, after = change.before, change.after
    if change.op == "d":
        return _columns(change.key or before or {})
    if change.op != "u" or before is None or after is None:
        return _columns(after or {})
    became = {
        name: f"{_value(before[name])} -> {_value(after[name])}"
        for name in after
        if name in before and before[name] != after[name]
    }
    return _columns({**(change.key or {}), **became})


def _columns(row: Mapping[str, Any]) -> str:
    return "  ".join(f"{name}={_value(value)}" for name, value in row.items())


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(counts: Counter[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("events")
    for op, word in WORDS.items():
        table.add_column(word, style=STYLES[op], justify="right")
    for name in sorted({name for name, _ in counts}):
        numbers = [counts[name, op] for op in WORDS]
        table.add_row(name, *[f"{number:,}" if number else "" for number in numbers])
    return table
