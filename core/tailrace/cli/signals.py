"""SIGTERM and Ctrl-C: the first drains, the second leaves at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h\x1b[0m\n"


@contextmanager
def draining(drain: Callable[[str], None]) -> Iterator[None]:
    """Call `drain` in the running loop with the first signal's name; a second ends the process."""
    loop = asyncio.get_running_loop()
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            _leave()
        asked = True
        loop.call_soon_threadsafe(drain, signal.Signals(number).name)

    # Not loop.add_signal_handler(): the second signal must work even if the loop is stuck.
    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave() -> None:
    if sys.__stderr__ is not None and sys.__stderr__.isatty():
        os.write(sys.__stderr__.fileno(), _SHOW_CURSOR.encode())
    os._exit(1)
