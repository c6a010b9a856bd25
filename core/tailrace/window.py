"""What the log does to a table while its rows are read, and which rows are left to emit.

A table with a key is read in chunks, and a `Window` is open for each; one without a key is read
as a whole. Pure: `tailrace.backfill` reads, and shows what the stream gives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from tailrace.checkpoint import TableProgress
from tailrace.connector import Chunk, Reading
from tailrace.event import Event, Position
from tailrace.row import Change, Images
from tailrace.schema import TableSchema

Key = tuple[Any, ...]


class Window:
    """What the log did to one table since the read of a chunk began.

    `touched` maps a key to None (the log has delivered the row, or its end), or to the columns
    that the log did deliver where it left others out (unchanged TOAST): those others are in the
    chunk, so the row is emitted with both. `moved` maps the old key of a row whose key changed
    so to its new one: the chunk has it under the old key. `again` is set where this cannot be
    told any more, as the new key was another row's within the window: the chunk is read again.
    """

    def __init__(self, table: TableSchema, progress: TableProgress) -> None:
        self.table = table
        self.progress = progress
        self.chunk: Chunk | None = None
        self.mark: Position | None = None
        self.truncated = False
        self.touched: dict[Key, dict[str, Any] | None] = {}
        self.moved: dict[Key, Key] = {}
        self.origins: dict[Key, Key] = {}  # the other way round
        self.again = False
        self._ended = asyncio.Event()

    @property
    def beyond(self) -> TableProgress:
        """The table's progress once the chunk is delivered."""
        assert self.chunk is not None
        return replace(
            self.progress,
            after=self.chunk.last or self.progress.after,
            rows=self.progress.rows + len(self.chunk.rows),
            done=self.chunk.last is None,
        )

    def end(self) -> None:
        """The stream has passed the mark: the chunk is emitted, or has to be read again."""
        self._ended.set()

    async def is_emitted(self) -> bool:
        """Wait for the end; False if the chunk has to be read again."""
        await self._ended.wait()
        return not self.again

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


def _hashable(value: Any) -> Any:
    return repr(value) if isinstance(value, list) else value


class Whole:
    """Tables without a key, from when it is known that they will be read until that is over.

    A change that the read shows is not delivered beside it. One that it does not show comes
    behind the rows, unless it is an insert, which stands for itself: so the stream waits for an
    update, a delete or a truncate of such a table, and for nothing else.
    """

    def __init__(self) -> None:
        self.paths: set[tuple[str, ...]] = set()
        self.labels: list[str] = []
        self.reading: Reading | None = None
        self.mark: Position | None = None
        self.complete = False
        self.emitted = asyncio.Event()
        self._changed = asyncio.Event()

    def add(self, table: TableSchema) -> None:
        if table.path not in self.paths:
            self.paths.add(table.path)
            self.labels.append(table.label)

    def change(self, reading: Reading | None, *, complete: bool = False) -> None:
        """The read has begun, or broken off (None), or given all its rows (`complete`)."""
        self.reading, self.complete = reading, complete
        self._changed.set()

    async def admit(self, events: list[Event]) -> list[Event]:
        """Those of `events` that are to be delivered; waits as long as order demands it."""
        if all(event.table.path not in self.paths for event in events):
            return events
        return [event for event in events if await self._admits(event)]

    async def _admits(self, event: Event) -> bool:
        while event.table.path in self.paths:
            if self.reading is not None:
                if self.reading.shows(event.transaction):
                    return False
                if self.complete or event.op == "c":
                    return True
            self._changed.clear()
            await self._changed.wait()
        return True
