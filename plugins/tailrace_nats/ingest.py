"""Fast ingest: messages in batches, acknowledged every 500 or so and at the end.

NATS 2.14, streams with ``allow_batched``. The reply subject says it all:
``<inbox>.<batch>.<flow>.<fail|ok>.<sequence>.<op>.$FI``. We ask for ``fail``: the server stores
nothing behind a message that it could not store, so order holds whatever is sent again. What has
been stored twice over is dropped by its id.
"""

from __future__ import annotations

from collections.abc import Sequence

from tailrace_nats.answers import (
    TOO_LARGE,
    UNKNOWN_BATCH,
    Answer,
    ApiError,
    RefusedError,
    read,
    refusal,
)
from tailrace_nats.connection import Connection
from tailrace_nats.frames import Framer
from tailrace_nats.outbox import Outbox
from tailrace_nats.stream import Stream
from tailrace_nats.wire import Answer as RawAnswer

FLOW = 500
"""The pace to ask for: messages to an acknowledgement. The server may grant less."""

OUTSTANDING = 2
"""Paces that may be on their way without an acknowledgement."""

_FIRST, _NEXT, _LAST = 0, 1, 2


async def ingest(connection: Connection, framer: Framer, stream: Stream, outbox: Outbox) -> None:
    """Send everything pending; return once all of it is durable or rejected.

    Raises RefusedError if the stream takes no more for now, LostError if the connection is of no
    use; `outbox` tells what is durable by then.
    """
    while outbox.pending:
        before = outbox.pending
        batch = FastBatch(connection, framer, stream, outbox)
        await batch.run()
        if outbox.pending == before:
            raise RefusedError(f"stream {stream.name} gave a batch up before it took anything")


class FastBatch:
    """One fast-ingest batch over all that is pending."""

    def __init__(
        self, connection: Connection, framer: Framer, stream: Stream, outbox: Outbox
    ) -> None:
        self.connection = connection
        self.framer = framer
        self.stream = stream
        self.outbox = outbox
        self.start = outbox.done
        self.total = outbox.pending
        self.sent = 0
        self.acked = 0
        self.pace = FLOW
        self.over = False
        self.failure: tuple[int, ApiError] | None = None
        # The server tells batches apart by this alone, whoever sends them.
        self.id = f"{connection.token}-{connection.numbers(1)}"
        self._key = self.id.encode()

    async def run(self) -> None:
        """Send and listen until the server has ended the batch."""
        self.connection.listener = self._hear
        while not self.over:
            room = min(self.acked + OUTSTANDING * self.pace, self.total)
            if self.sent < room:
                await self._send(room)
            else:
                await self.connection.wait()
        self.connection.check()
        self._settle()

    async def _send(self, end: int) -> None:
        while self.sent < end and not self.over:
            low, self.sent = self.sent, min(self.sent + FLOW, end)
            await self.connection.send(self._frames(low, self.sent))

    def _frames(self, low: int, high: int) -> bytes:
        prefix = f"{self.connection.inbox}.{self.id}.{FLOW}.fail."
        replies = [f"{prefix}{n}.{_NEXT}.$FI " for n in range(low + 1, high + 1)]
        if low == 0:
            replies[0] = f"{prefix}1.{_FIRST}.$FI "
        if high == self.total:
            replies[-1] = f"{prefix}{high}.{_LAST}.$FI "
        part = slice(self.start + low, self.start + high)
        return self.framer.frames(self.outbox.messages[part], self.outbox.ids[part], replies)

    def _hear(self, answers: Sequence[RawAnswer]) -> None:
        for tail, body in answers:
            batch, *rest = tail.split(b".")
            if batch == self._key and not self.over:
                self._note(int(rest[2]), read(body, self.stream.name))

    def _note(self, sequence: int, answer: Answer) -> None:
        if answer.type == "ack":
            self.pace = max(1, answer.msgs)
            self._durable(answer.seq)
        elif answer.count is not None:
            self.over = True
            self._durable(answer.count)
        elif answer.error is not None:
            if answer.error.err_code != UNKNOWN_BATCH:
                self.failure = self.failure or (answer.seq or sequence, answer.error)
            # An "err" is followed by the batch's end, with the count of what was stored.
            self.over = answer.type != "err"

    def _durable(self, through: int) -> None:
        self.acked = max(self.acked, min(through, self.sent))
        self.outbox.done = self.start + self.acked

    def _settle(self) -> None:
        if self.failure is None:
            return
        sequence, error = self.failure
        index = self.start + sequence - 1
        if error.err_code == TOO_LARGE:
            self.outbox.reject(index, f"stream {self.stream.name}: {error}")
            return
        subject = self.framer.subject(self.outbox.messages[index].events[-1])
        raise refusal(error, subject, self.stream.name)
