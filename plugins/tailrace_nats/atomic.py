"""Atomic batches: whole transactions, of which the stream gets all events or none.

NATS 2.12, streams with ``allow_atomic``. The messages of a batch carry its id and their number in
it, the last one the commit; with that they are stored, and before it no consumer sees them. A batch
that is not ended is given up by the server after 10 s.

A batch costs the server a file of its own and a sync of the disk, whatever its size. So the
transactions that wait share one, as far as they fit whole. One batch is under way at a time: more
are no faster, and order needs no further care. Transactions of one event each go without.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise, repeat

from tailrace.event import Transaction
from tailrace_nats.answers import (
    INCOMPLETE,
    STORED,
    TOO_LARGE,
    TOO_MANY,
    ApiError,
    read,
    refusal,
)
from tailrace_nats.connection import Connection
from tailrace_nats.frames import Framer
from tailrace_nats.ingest import ingest
from tailrace_nats.outbox import Outbox
from tailrace_nats.pubacks import publish
from tailrace_nats.stream import Stream
from tailrace_nats.wire import Answer as RawAnswer

OVERHEAD = 160
"""Bytes that a batch adds to the headers of a message, at most."""

_LIMIT = 1_000


class Limit:
    """Messages in a batch at most: the server's limit, once it has been met."""

    def __init__(self) -> None:
        self.messages = _LIMIT

    def lower(self, error: ApiError) -> None:
        """The server takes less, and says how much."""
        said = re.search(r"\d+$", error.description)
        self.messages = max(1, min(int(said[0]) if said else 1, self.messages - 1))


class Delivery:
    """One outbox on one connection, batch after batch."""

    def __init__(
        self,
        connection: Connection,
        framer: Framer,
        stream: Stream,
        outbox: Outbox,
        limit: Limit,
        window: int,
    ) -> None:
        self.connection = connection
        self.framer = framer
        self.stream = stream
        self.outbox = outbox
        self.limit = limit
        self.window = window
        # Up to these indices: each transaction alone; no batches; every message is answered.
        self._alone = self._plain = self._asking = 0

    async def run(self) -> None:
        """Send everything that is left; return once all of it is durable or rejected.

        Raises as `ingest.ingest` does.
        """
        outbox = self.outbox
        while outbox.left:
            outbox.end = self._end()
            if outbox.done < self._plain or not self._any_together():
                await self._publish()
                continue
            asking = outbox.done < self._asking
            batch = AtomicBatch(self.connection, self.framer, self.stream, outbox, asking)
            if (failure := await batch.run()) is not None:
                self._learn(*failure)

    def _end(self) -> int:
        """Where the next part ends: behind the transactions that fit, or inside a large one."""
        start, last = self.outbox.done, len(self.outbox.messages)
        furthest = min(start + self.limit.messages, last)
        if start < self._alone:
            ends = (n for n in range(start + 1, furthest) if not self._together(n))
            return next(ends, furthest)
        if furthest == last:
            return last
        ends = (n for n in range(furthest, start, -1) if not self._together(n))
        return next(ends, furthest)

    def _together(self, index: int) -> bool:
        """Whether the message and the one before are of one transaction."""
        return self._transaction(index) is self._transaction(index - 1)

    def _transaction(self, index: int) -> Transaction:
        return self.outbox.messages[index].events[-1].transaction

    def _any_together(self) -> bool:
        part = map(self._transaction, range(self.outbox.done, self.outbox.end))
        return any(one is other for one, other in pairwise(part))

    async def _publish(self) -> None:
        if self.stream.batched:
            await ingest(self.connection, self.framer, self.stream, self.outbox)
        else:
            await publish(self.connection, self.framer, self.stream, self.outbox, self.window)

    def _learn(self, index: int, error: ApiError) -> None:
        """Nothing of the part is stored: see to it that the next attempt fares better."""
        outbox = self.outbox
        if error.err_code == STORED:
            # Find the transaction that is stored, and then what is stored of it.
            several = self._transaction(outbox.done) is not self._transaction(outbox.end - 1)
            self._alone = max(self._alone, outbox.end)
            self._plain = self._plain if several else outbox.end
        elif error.err_code == INCOMPLETE and outbox.done >= self._asking:
            self._asking = outbox.end
        elif error.err_code == TOO_MANY:
            self.limit.lower(error)
        elif error.err_code == TOO_LARGE:
            outbox.reject(index, f"stream {self.stream.name}: {error}")
        else:
            subject = self.framer.subject(outbox.messages[index].events[-1])
            raise refusal(error, subject, self.stream.name)


class AtomicBatch:
    """What `outbox` has pending, as one batch.

    Only the commit is answered, and does not tell why a message before it was not taken. With
    `asking` each message is.
    """

    def __init__(
        self, connection: Connection, framer: Framer, stream: Stream, outbox: Outbox, asking: bool
    ) -> None:
        self.connection = connection
        self.framer = framer
        self.stream = stream
        self.outbox = outbox
        self.start = outbox.done
        self.total = outbox.pending
        self.first = connection.numbers(self.total)
        self.unanswered = self.total if asking else 1
        self.errors: dict[int, ApiError] = {}

    async def run(self) -> tuple[int, ApiError] | None:
        """Send it and wait until it is stored; else the message at fault and what is wrong."""
        self.connection.listener = self._hear
        await self.connection.send(self._frames())
        while self.unanswered:
            await self.connection.wait()
        self.connection.check()
        if not self.errors:
            self.outbox.done += self.total
            return None
        causes = [n for n, error in self.errors.items() if error.err_code != INCOMPLETE]
        n = min(causes, default=self.total - 1)
        return self.start + n, self.errors[n]

    def _frames(self) -> bytes:
        part = slice(self.start, self.start + self.total)
        batch = f"\r\nNats-Batch-Id: {self.connection.token}-{self.first}\r\nNats-Batch-Sequence: "
        ids = [f"{id}{batch}{n}" for n, id in enumerate(self.outbox.ids[part], 1)]
        ids[-1] += "\r\nNats-Batch-Commit: 1"
        replies = [f"{self.connection.inbox}.{self.first + n} " for n in range(self.total)]
        if self.unanswered == 1:
            replies[:-1] = repeat("", self.total - 1)
        return self.framer.frames(self.outbox.messages[part], ids, replies)

    def _hear(self, answers: Sequence[RawAnswer]) -> None:
        for tail, body in answers:
            if tail.isdigit() and 0 <= (n := int(tail) - self.first) < self.total:
                if (error := read(body, self.stream.name).error) is not None:
                    self.errors[n] = error
                self.unanswered -= 1
