"""Where batches wait between the reader and the sink: merged, and bounded in bytes."""

from __future__ import annotations

import asyncio
from collections import deque

from tailrace.event import Batch, Event


class Buffer:
    """Takes small batches, gives the largest that fits the limits; one reader, one writer.

    What waits never exceeds one batch's limits, so the next batch is ready while one is being
    written and no more is read ahead. With what is being written it never exceeds `memory`,
    except for a single batch that is larger by itself.
    """

    def __init__(self, events: int, size: int, memory: int) -> None:
        self._events_limit = events
        self._size_limit = size
        self._memory = memory
        self._waiting: deque[Batch] = deque()
        self._events = 0
        self._size = 0
        self._taken = 0
        self._closed = False
        self._changed: asyncio.Event = asyncio.Event()

    async def put(self, batch: Batch) -> None:
        """Wait for room and add the batch; once closed, wait to be cancelled."""
        while self._closed or not self._fits(batch):
            self._changed.clear()
            await self._changed.wait()
        self._waiting.append(batch)
        self._events += len(batch.events)
        self._size += batch.size
        self._changed.set()

    def _fits(self, batch: Batch) -> bool:
        if not self._waiting:
            return self._taken == 0 or self._taken + batch.size <= self._memory
        return (
            self._events + len(batch.events) <= self._events_limit
            and self._size + batch.size <= self._size_limit
            and self._taken + self._size + batch.size <= self._memory
        )

    async def take(self) -> Batch | None:
        """Everything that waits, as one batch; None once closed and empty.

        The batch taken before counts as written.
        """
        self._taken = 0
        self._changed.set()
        while not self._waiting:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        batch = _merge(self._waiting)
        self._taken, self._events, self._size = self._size, 0, 0
        self._waiting.clear()
        self._changed.set()
        return batch

    def close(self) -> None:
        """Take nothing more; what waits is still given."""
        self._closed = True
        self._changed.set()


def _merge(batches: deque[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    events: list[Event] = []
    progress = None
    for batch in batches:
        events += batch.events
        if batch.progress:
            progress = {**(progress or {}), **batch.progress}
    return Batch(events, batches[-1].position, sum(batch.size for batch in batches), progress)
