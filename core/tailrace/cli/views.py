"""What ``cdc run`` shows while it runs: one live table on a terminal, a log line in a pipe."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import ClassVar, Self

from msgspec import to_builtins
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from tailrace.cli.meter import Meter, Reading, span
from tailrace.cli.reporting import scrub
from tailrace.log import printable

log = logging.getLogger("tailrace.cli")


class View:
    """Shows the figures of running pipelines. `update` comes `looks_per_second` times a second."""

    window: ClassVar[float] = 10.0
    looks_per_second: ClassVar[float] = 4.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""

    def update(self, meters: Sequence[Meter]) -> None:
        """Show the figures, if it is time to."""

    def end(self, meters: Sequence[Meter]) -> None:
        """Say the totals."""
        for meter in meters:
            reading = meter.read()
            if not reading.position:  # it never began; its error says why
                continue
            text = f"{reading.name}: ended with {reading.events:,} events, {reading.size:,} bytes"
            place = f", at {reading.position}" if reading.position else ""
            log.info(text + place, extra={"pipeline": reading.name, "events": reading.events})


class LogView(View):
    """A log line for each pipeline every ten seconds."""

    every: ClassVar[float] = 10.0

    def __init__(self) -> None:
        self._next = time.monotonic() + self.every

    def update(self, meters: Sequence[Meter]) -> None:
        if time.monotonic() < self._next:
            return
        self._next += self.every
        for meter in meters:
            reading = meter.read()
            figures = to_builtins(reading)
            log.info(reading.text(), extra={"pipeline": figures.pop("name"), **figures})


class LiveView(View):
    """A table that is drawn again four times a second; log lines scroll above it."""

    window: ClassVar[float] = 2.0

    def __init__(self, console: Console | None = None) -> None:
        self._live = Live(
            console=console or Console(stderr=True), auto_refresh=False, transient=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def update(self, meters: Sequence[Meter]) -> None:
        self._live.update(table(meter.read() for meter in meters), refresh=True)


def table(readings: Iterable[Reading]) -> Table:
    """A row for each pipeline."""
    shown = Table(box=None, pad_edge=False)
    for head in ("pipeline", "backfill", "events/s", "events", "lag", "last change", "last error"):
        shown.add_column(head, justify="right" if head.startswith("events") else "left")
    for r in readings:
        shown.add_row(
            r.name,
            r.backfill or "-",
            f"{r.rate:,.0f}",
            f"{r.events:,}",
            "-" if r.lag is None else span(r.lag),
            "-" if r.idle is None else f"{span(r.idle)} ago",
            f"[red]{_plain(r.error)}[/]" if r.error else "-",
        )
    return shown


def _plain(error: str) -> str:
    return escape(printable(scrub(error)))
