"""A change as one line for a person: what ``cdc tail`` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from tailrace.event import Event
from tailrace.formats import Format, Message
from tailrace.log import printable
from tailrace.values import to_json

_OPS = {
    "c": ("insert", "green"),
    "u": ("update", "yellow"),
    "d": ("delete", "red"),
    "r": ("read", "blue"),
    "t": ("truncate", "magenta"),
    "s": ("schema", "magenta"),
    "m": ("message", "cyan"),
}
_WIDEST = 80


class ConsoleFormat(Format):
    """``06:44:07.826 update public.orders id=1 status="new" -> "paid"``."""

    content_type = "text/plain"

    def __init__(self, config: Any, *, name: str, connector: str, colour: bool = False) -> None:
        super().__init__(config, name=name, connector=connector)
        self._colour = colour

    def encode(self, events: Sequence[Event], *, keyed: bool = False) -> list[Message]:
        return [Message(self._line(event).encode(), [event]) for event in events]

    def _line(self, event: Event) -> str:
        word, colour = _OPS[event.op]
        clock = event.ts.astimezone().strftime("%H:%M:%S.%f")[:-3]
        parts = [
            self._style(clock, dim=True),
            self._style(f"{word:<8}", fg=colour, bold=True),
            self._style(printable(event.table.label), fg="cyan"),
            *self._row(event),
        ]
        return " ".join(parts)

    def _row(self, event: Event) -> Iterator[str]:
        key = event.key or {}
        before, after = event.before or {}, event.after
        for name, value in key.items():
            yield self._style(f"{printable(name)}={_shown(value)}", bold=True)
        row = before if after is None else after
        for name, value in row.items():
            if name in key and before.get(name, value) == value:
                continue
            if after is not None and name in before:
                if before[name] != value:
                    yield f"{self._name(name)}{_shown(before[name])} -> {_shown(value)}"
            else:
                yield f"{self._name(name)}{_shown(value)}"
        for name in () if after is None else event.unavailable:
            yield self._style(f"{printable(name)}=(unchanged)", dim=True)

    def _name(self, name: str) -> str:
        return self._style(f"{printable(name)}=", dim=True)

    def _style(self, text: str, **style: Any) -> str:
        return click.style(text, **style) if self._colour else text


def _shown(value: Any) -> str:
    if type(value) in (str, bytes):
        value = value[:_WIDEST]
    text = printable(to_json(value).encode("latin-1").decode())
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
