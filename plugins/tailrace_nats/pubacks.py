"""One acknowledgement a message, in a bounded window: for streams without fast ingest.

**Order.** A connection that dies has delivered a prefix of what was sent, and the rest follows on
the next one: order holds. A stream may also refuse one message and take the next (it was full and
then had room again; its leader changed). The refused one, sent again, would then stand behind its
successors, and these, sent again, would be dropped by their ids: a reader would end with the older
row. So nothing more is sent after a refusal, and what had overtaken it by then is stored once more,
one message at a time and in order, under its id with ``~1`` behind it.
A reader sees them again after it: at least once, and the last one seen is the last one written.
``Nats-Expected-Last-Msg-Id`` on each message would prevent this, but fails in a stream with a
second writer and after a duplicate. Fast ingest needs none of it (see `ingest`).
"""

from __future__ import annotations

from collections.abc import Sequence

from tailrace_nats.answers import TOO_LARGE, ApiError, read, refusal
from tailrace_nats.connection import Connection
from tailrace_nats.frames import Framer
from tailrace_nats.outbox import Outbox
from tailrace_nats.stream import Stream
from tailrace_nats.wire import Answer as RawAnswer

_CHUNK = 500


async def publish(
    connection: Connection, framer: Framer, stream: Stream, outbox: Outbox, window: int
) -> None:
    """Send everything pending; return once all of it is durable or rejected.

    Raises as `ingest.ingest` does; then `outbox` knows what must be stored once more.
    """
    behind = len(outbox.messages) - outbox.end
    if outbox.stamped and not behind:
        outbox.end -= 1  # the stamp vouches for everything before it, so that must be stored first
    await _publish_pending(connection, framer, stream, outbox, window)
    outbox.end = len(outbox.messages) - behind
    await _publish_pending(connection, framer, stream, outbox, window)


async def _publish_pending(
    connection: Connection, framer: Framer, stream: Stream, outbox: Outbox, window: int
) -> None:
    while outbox.pending:
        await Window(connection, framer, stream, outbox, window).run()


class Window:
    """All that is pending, with at most `size` messages unacknowledged."""

    def __init__(
        self, connection: Connection, framer: Framer, stream: Stream, outbox: Outbox, size: int
    ) -> None:
        self.connection = connection
        self.framer = framer
        self.stream = stream
        self.outbox = outbox
        self.size = size
        self.start = outbox.done
        self.total = outbox.pending
        self.first = connection.numbers(self.total)
        self.acked = bytearray(self.total)
        self.low = 0
        self.sent = 0
        self.answered = 0
        self.errors: dict[int, ApiError] = {}
        self._success = b'{"stream":"%b",' % stream.name.encode()

    async def run(self) -> None:
        """Send and listen until all is acknowledged, or until all that was sent is answered."""
        self.connection.listener = self._hear
        try:
            while self.answered < self.sent or (self.sent < self.total and not self.errors):
                end = min(self.low + self.size, self.total)
                if self.errors or end - self.sent < self._worthwhile():
                    await self.connection.wait()
                else:
                    await self._send(end)
        finally:
            self._note_overtaken()
        self.connection.check()
        self._settle()

    def _worthwhile(self) -> int:
        return min(self.size // 4 or 1, self.total - self.sent) or 1

    async def _send(self, end: int) -> None:
        prefix, first = self.connection.inbox, self.first
        while self.sent < end and not self.errors:
            low, high = self.sent, min(self.sent + _CHUNK, end)
            replies = [f"{prefix}.{n} " for n in range(first + low, first + high)]
            part = slice(self.start + low, self.start + high)
            frames = self.framer.frames(self.outbox.messages[part], self.outbox.ids[part], replies)
            self.sent = high
            await self.connection.send(frames)

    def _hear(self, answers: Sequence[RawAnswer]) -> None:
        first, total, acked, success = self.first, self.total, self.acked, self._success
        for tail, body in answers:
            if not tail.isdigit() or not 0 <= (n := int(tail) - first) < total:
                continue
            if body.startswith(success):
                acked[n] = 1
            else:
                self._note(n, read(body, self.stream.name).error)
            self.answered += 1
        end = acked.find(0, self.low)
        self.low = end if end >= 0 else total
        self.outbox.done = self.start + self.low

    def _note(self, n: int, error: ApiError | None) -> None:
        if error is None:
            self.acked[n] = 1
        else:
            self.errors[n] = error

    def _refused(self) -> list[int]:
        return [n for n, error in self.errors.items() if error.err_code != TOO_LARGE]

    def _note_overtaken(self) -> None:
        """Remember what is stored behind something that is not, and will be sent again."""
        sent = range(self.low, self.sent)
        missing = [n for n in sent if not self.acked[n] and n not in self.errors]
        first = min([*self._refused(), *missing], default=self.sent)
        for n in range(first, self.sent):
            if self.acked[n]:
                self.outbox.repeat(self.start + n)

    def _settle(self) -> None:
        refused = min(self._refused(), default=None)
        failure = None
        if refused is not None:
            event = self.outbox.messages[self.start + refused].events[-1]
            failure = refusal(self.errors[refused], self.framer.subject(event), self.stream.name)
        for n in sorted(self.errors, reverse=True):
            if self.errors[n].err_code == TOO_LARGE:
                self.outbox.reject(self.start + n, f"stream {self.stream.name}: {self.errors[n]}")
        if failure is not None:
            raise failure
