"""The sink ``stdout``: one line for each message, and nothing else, on standard output."""

from __future__ import annotations

import asyncio
import os
import select
import sys
import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, ClassVar

from tailrace.config import PluginConfig
from tailrace.connector import Finding, Setup, Sink
from tailrace.errors import ConfigError, PermanentError, TransientError
from tailrace.event import Batch
from tailrace.formats import Format

# Pipelines of one process share standard output; a long write to a pipe is done in pieces.
_turn = threading.Lock()


class StdoutConfig(PluginConfig):
    """The sink has no keys of its own."""


class StdoutSink(Sink):
    """Durable means here: handed to the pipe, terminal or file that standard output is.

    A reader that stalls stalls the pipeline; the event loop goes on.
    """

    Config = StdoutConfig
    capabilities: ClassVar[frozenset[str]] = frozenset({"ordered_per_key"})

    def __init__(self, config: Any, setup: Setup, format: Format) -> None:
        super().__init__(config, setup, format)
        self._writer: _Writer | None = None

    async def open(self) -> None:
        try:
            sys.stdout.flush()
            self._writer = _Writer(sys.stdout.fileno())
        except (AttributeError, OSError, ValueError) as error:
            raise ConfigError(
                "sink: stdout cannot be written: standard output is closed",
                mend="Start the command with its standard output open, or use sink=file.",
            ) from error

    async def check(self) -> list[Finding]:
        found = await super().check()
        if found[0].level == "error":
            return found
        text = (
            "an event counts as delivered once it is handed over; what becomes of it is not known"
        )
        return [Finding("ok", "stdout", text)]

    async def write(self, batch: Batch) -> None:
        lines = self.format.lines(batch.events)
        if lines and self._writer is not None:
            await self._writer.write(lines)

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.stop()
            self._writer = None


class _Writer:
    """Writes in a daemon thread, which a reader that never reads again cannot keep from ending.

    Standard output stays blocking: its mode is shared with the terminal and with other programs.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._jobs: SimpleQueue[tuple[bytes, Future[None]] | None] = SimpleQueue()
        self._torn = b""
        threading.Thread(target=self._serve, name="tailrace-stdout", daemon=True).start()

    async def write(self, data: bytes) -> None:
        done: Future[None] = Future()
        self._jobs.put((data, done))
        await asyncio.wrap_future(done)

    def stop(self) -> None:
        self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            data, done = job
            if not done.set_running_or_notify_cancel():
                continue
            try:
                with _turn:
                    self._send(self._torn + data if self._torn else data)
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _send(self, data: bytes) -> None:
        sent = 0
        try:
            while sent < len(data):
                sent += self._send_some(memoryview(data)[sent:])
            self._torn = b""
        except BrokenPipeError as error:
            raise PermanentError(
                "the program that reads standard output has gone",
                mend="Nothing to mend if it took all it wanted; else start both again.",
            ) from error
        except OSError as error:
            self._torn = _rest_of_line(data, sent)
            raise TransientError(
                f"standard output cannot be written: {error.strerror or error}",
                mend="Look for a full disk behind it.",
            ) from error

    def _send_some(self, data: memoryview) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:  # somebody else has made it non-blocking
            select.select([], [self._fd], [])
            return 0


def _rest_of_line(data: bytes, sent: int) -> bytes:
    """What is missing of a line that was begun: written first when the batch comes again."""
    begun = sent > 0 and data[sent - 1] != 0x0A
    return data[sent : data.index(b"\n", sent) + 1] if begun else b""
