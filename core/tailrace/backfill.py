"""Backfill: the rows that predate the stream, read while it runs.

Watermarks as in Netflix's DBLog (arXiv 2010.12597), without writing to the database: read a chunk
by key, note the log's head, and when the stream has passed that, emit the chunk's rows less those
that the log touched meanwhile. The window opens when the read begins: what was delivered before
is visible to the read (that is the source's promise), so no low watermark is needed
(docs/adr/0002).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tailrace.checkpoint import TableProgress
from tailrace.connector import BackfillSource, Chunk, TableStatus
from tailrace.event import Batch, Event, Position, Transaction
from tailrace.failpoint import failpoint
from tailrace.retry import Retry
from tailrace.row import Change, Images
from tailrace.schema import TableSchema

log = logging.getLogger("tailrace")

Key = tuple[Any, ...]


class _Window:
    """What the log did to one table since the read of a chunk began.

    `touched` maps a key to None (the log has delivered the row, or its end), or to the columns
    that the log did deliver where it left others out (unchanged TOAST): those others are in the
    chunk, so the row is emitted with both. `moved` maps the old key of a row whose key changed
    so to its new one: the chunk has it under the old key. `again` is set where this cannot be
    told any more, as the new key was another row's within the window: the chunk is read again.
    """

    def __init__(self, table: TableSchema) -> None:
        self.table = table
        self.chunk: Chunk | None = None
        self.mark: Position | None = None
        self.truncated = False
        self.touched: dict[Key, dict[str, Any] | None] = {}
        self.moved: dict[Key, Key] = {}
        self.origins: dict[Key, Key] = {}  # the other way round
        self.again = False
        self.emitted = asyncio.Event()

    def watch(self, events: Sequence[Event]) -> None:
        seen, ours = None, False
        for event in events:
            if event.table is not seen:
                seen, ours = event.table, event.table.path == self.table.path
            if ours:
                self._touch(event)

    def _touch(self, event: Event) -> None:
        if event.op == "t":
            self.truncated = True
        key = self._key(event.key)
        if key is None:
            return
        known: dict[str, Any] | None = self.touched.get(key, {})
        old = self._key(event.before)
        if old is not None and old != key:
            self.again |= bool(event.unavailable) and key in self.touched
            known = self.touched.get(old, {})
            self.touched[old] = None
            self._move(old, key)
        if event.op == "d" or not event.unavailable:
            known = None
        elif known is not None:
            known = {**known, **(event.after or {})}
        self.touched[key] = known

    def _move(self, old: Key, new: Key) -> None:
        first = self.origins.pop(old, old)
        self.moved[first] = new
        self.origins[new] = first

    def _key(self, row: Any) -> Key | None:
        try:
            return tuple([_hashable(row[name]) for name in self.table.key]) if row else None
        except KeyError:
            return None

    def rows(self) -> Iterator[Change]:
        """The chunk's rows that are still to be emitted."""
        assert self.chunk is not None
        if self.truncated:
            return
        if not self.touched:
            yield from self.chunk.rows
            return
        for row in self.chunk.rows:
            key = self._key(row.key)
            if key not in self.touched:
                yield row
                continue
            known = self.touched[key] or self.touched.get(self.moved.get(key, ()))
            if known is not None:
                after = {**(row.after or {}), **known}
                yield Images(key={name: after[name] for name in self.table.key}, after=after)


class Backfill:
    """Reads every table that is not done, one after the other, chunk by chunk.

    `run` reads; `follow` is called by the reader for each batch of the stream, in order, and
    gives the batches to deliver after it. Both belong to one event loop.
    """

    def __init__(
        self, source: BackfillSource, *, rows: int, batch_events: int, retry: Retry
    ) -> None:
        self.tables: dict[str, TableProgress] = {}
        self.estimates: dict[str, int] = {}
        self._source = source
        self._rows = rows
        self._batch_events = batch_events
        self._retry = retry
        self._statuses: dict[str, TableStatus] = {}
        self._window: _Window | None = None
        self._begun = asyncio.Event()

    async def plan(self, saved: dict[str, TableProgress]) -> dict[str, TableProgress]:
        """Progress of all tables that have a key: as saved, or beginning now."""
        statuses = await self._retry.call(self._source.tables)
        started = await self._retry.call(self._source.head)
        fresh = TableProgress(started, time.time_ns() // 1000)
        self.tables = dict(saved)
        for status in statuses:
            label = status.table.label
            if not status.table.key:
                log.warning("%s has no key: the rows it has now are not delivered", label)
                continue
            self._statuses[label] = status
            self.estimates[label] = status.rows
            self.tables.setdefault(label, fresh)
        return self.tables

    def begin(self) -> None:
        """The pipeline is ours and its stream stands: what a read does not see, the stream gives.

        Before a slot is made there is no stream, and a change after the read would be in neither.
        """
        self._begun.set()

    @property
    def complete(self) -> bool:
        return all(self.tables[label].done for label in self._statuses)

    async def run(self) -> None:
        """Read what is left; returns when every table is done and emitted."""
        await self._begun.wait()
        await self.plan(self.tables)  # a table may have come before the stream stood
        for label, status in self._statuses.items():
            while not self.tables[label].done:
                await self._next_chunk(status.table)

    async def _next_chunk(self, table: TableSchema) -> None:
        window = self._window = _Window(table)
        after = self.tables[table.label].after
        chunk = await self._retry.call(lambda: self._source.chunk(table, after, self._rows))
        failpoint("chunk")
        window.mark = await self._retry.call(self._source.head)
        window.chunk = chunk
        await window.emitted.wait()

    def follow(self, batch: Batch) -> list[Batch]:
        """What to deliver after `batch`: the chunk, once the stream has passed its mark."""
        window = self._window
        if window is None:
            return []
        window.watch(batch.events)
        if window.chunk is None or window.mark is None:
            return []
        if not self._source.passed(batch.position, window.mark):
            return []
        self._window = None
        window.emitted.set()
        return [] if window.again else self._emit(window, window.chunk, batch.position)

    def _emit(self, window: _Window, chunk: Chunk, position: Position) -> list[Batch]:
        label = window.table.label
        before = self.tables[label]
        transaction = Transaction(before.started, before.ts)
        prefix = f"{self._source.identity}:{before.started}:r:"
        table = chunk.table or window.table
        events = [
            Event(prefix + _digest(label, row), "r", table, row, transaction)
            for row in window.rows()
        ]
        progress = TableProgress(
            before.started,
            before.ts,
            chunk.last or before.after,
            before.rows + len(chunk.rows),
            chunk.last is None,
        )
        self.tables[label] = progress
        if progress.done:
            log.info("backfill of %s done: %d rows", label, progress.rows)
        return self._cut(events, position, chunk.size, {label: progress})

    def _cut(
        self, events: list[Event], position: Position, size: int, progress: dict[str, Any]
    ) -> list[Batch]:
        """Batches within the limit; only the last one carries the progress."""
        limit = self._batch_events
        parts = [events[at : at + limit] for at in range(0, len(events), limit)] or [[]]
        batches = [Batch(part, position, size // len(parts)) for part in parts]
        batches[-1].progress = progress
        return batches


def _hashable(value: Any) -> Any:
    return repr(value) if isinstance(value, list) else value


def _digest(label: str, row: Change) -> str:
    """The same row read again gives the same id; a row that has changed since, another."""
    content = f"{label}\0{row.json()}".encode("latin-1", "backslashreplace")
    return hashlib.blake2b(content, digest_size=12).hexdigest()
