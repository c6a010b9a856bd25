"""Backfill: the rows that predate the stream, read while it runs.

Watermarks as in Netflix's DBLog (arXiv 2010.12597), without writing to the database: read a chunk
by key, note the log's head, and when the stream has passed that, emit the chunk's rows less those
that the log touched meanwhile. The window opens when the read begins: what was delivered before
is visible to the read (that is the source's promise), so no low watermark is needed
(docs/adr/0002). Tables without a key are read first, in one consistent read (docs/adr/0007).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace

from tailrace.checkpoint import BackfillRequest, TableProgress
from tailrace.config import PipelineConfig
from tailrace.connector import BackfillSource, TableStatus
from tailrace.errors import ConfigError, TransientError
from tailrace.event import Batch, Event, Position, Transaction
from tailrace.failpoint import failpoint
from tailrace.patterns import Patterns
from tailrace.retry import Retry
from tailrace.row import Change
from tailrace.schema import TableSchema
from tailrace.window import Whole, Window

log = logging.getLogger("tailrace")

_LOOK = 5.0

Put = Callable[[Batch], Awaitable[None]]


class Backfill:
    """Reads every table that is not done, one after the other, chunk by chunk.

    `run` reads; the reader calls `begin`, `admit` and `follow` for each batch of the stream, in
    order. `tables` is how far each table is, `estimates` how many rows it may have. What has
    begun lately and is not in the checkpoint yet is given once, by `news`.
    """

    def __init__(
        self, source: BackfillSource, config: PipelineConfig, retry: Retry, put: Put
    ) -> None:
        self.tables: dict[str, TableProgress] = {}
        self.estimates: dict[str, int] = {}
        self._source = source
        self._retry = retry
        self._put = put
        self._config = config
        self._wanted = Patterns(config.snapshot_tables)
        self._batch_events = max(1, config.batch_events // 2)
        self._statuses: dict[str, TableStatus] = {}
        self._news: dict[str, TableProgress] = {}
        self._requests: list[BackfillRequest] = []
        self._superseded: set[str] = set()
        self._position: Position | None = None
        self._windows: deque[Window] = deque()
        self._whole = Whole()
        self._begun = asyncio.Event()
        self._woken = asyncio.Event()

    # -- which tables

    async def plan(self, saved: dict[str, TableProgress]) -> dict[str, TableProgress]:
        """The progress of every table that is to be read: as saved, or beginning now.

        Raises ConfigError for settings that name what is not there.
        """
        self.tables = dict(saved)
        found = await self._listed()
        self._check_settings(found)
        for label in found:
            if self._config.snapshot == "never" and label not in saved:
                self._statuses[label] = found[label]
        await self._welcome(found)
        self._news.clear()
        return dict(self.tables)  # what is read from now on is not delivered yet

    async def _listed(self) -> dict[str, TableStatus]:
        statuses = await self._retry.call(self._source.tables)
        return {status.table.label: status for status in statuses}

    def _check_settings(self, found: Iterable[str]) -> None:
        problems = [
            ConfigError(f"snapshot.tables: no captured table matches {pattern}", mend=_CASE)
            for pattern in self._wanted.unmatched(found)
            if not self._wanted.everything
        ] + [
            ConfigError(f"snapshot.where.{label}: no such table is captured", mend=_CASE)
            for label in self._config.snapshot_where
            if label not in found
        ]
        if problems:
            raise ConfigError.of(problems)

    async def _welcome(self, found: dict[str, TableStatus]) -> None:
        """Take note of the tables; those seen for the first time begin to be read."""
        new = [label for label in found if label not in self._statuses]
        self._statuses = found
        for label in filter(self._wanted.matches, new):
            await self._begin(label, self._config.snapshot_where.get(label))
        for label in self._left():
            if not found[label].table.key:
                self._whole.add(found[label].table)

    async def _begin(self, label: str, where: str | None, request: str = "") -> None:
        """The table's progress begins, unless it has; a `request` begins it in any case."""
        status = self._statuses[label]
        if request or label not in self.tables:
            if label in self.tables:
                self._superseded.add(self.tables[label].request)
            started = await self._retry.call(self._source.head)
            fresh = TableProgress(started, time.time_ns() // 1000, where=where, request=request)
            self.tables[label] = self._news[label] = fresh
        progress = self.tables[label]
        if progress.done:
            return
        table, condition = status.table, progress.where
        self.estimates[label] = status.rows
        if condition:
            asked = self._retry.call(lambda: self._source.estimate(table, condition))
            self.estimates[label] = await asked
        if not table.key:
            self._whole.add(table)

    def requested(self, requests: Sequence[BackfillRequest]) -> list[BackfillRequest]:
        """Take note of what waits in the store. Those that need not wait any more are given back:
        another request for the same table has begun since, or there is no such table.
        """
        settled = [request for request in requests if self._is_settled(request)]
        self._requests = [
            request
            for request in requests
            if request not in settled and not self._has_begun(request)
        ]
        if self._requests:
            self._woken.set()
        return settled

    def _is_settled(self, request: BackfillRequest) -> bool:
        if self._statuses and request.table not in self._statuses:
            log.warning("asked for a backfill of %s, which is not captured", request.table)
            return True
        return request.id in self._superseded

    def _has_begun(self, request: BackfillRequest) -> bool:
        progress = self.tables.get(request.table)
        return progress is not None and progress.request == request.id

    async def _begin_requested(self) -> None:
        """A table is read to its end before it is begun again."""
        for request in list(self._requests):
            progress = self.tables.get(request.table)
            if progress is None or progress.done:
                await self._begin(request.table, request.where, request.id)
                self._requests.remove(request)
                log.info("backfill of %s begins, as asked", request.table)

    @property
    def complete(self) -> bool:
        return not self._requests and not self._left()

    def _left(self) -> list[str]:
        return [
            label
            for label in self._statuses
            if label in self.tables and not self.tables[label].done
        ]

    def news(self) -> dict[str, TableProgress] | None:
        """Progress that the next batch must carry: what has begun since this was last called."""
        news, self._news = self._news, {}
        return news or None

    # -- reading

    async def run(self) -> None:
        """Read what is left, and what comes to be there; never returns."""
        await self._begun.wait()
        looked = -_LOOK
        while True:
            if time.monotonic() - looked >= _LOOK:
                await self._welcome(await self._listed())
                looked = time.monotonic()
            await self._begin_requested()
            if not await self._read_next():
                await self._pause()

    async def _read_next(self) -> bool:
        left = self._left()
        if self._whole.labels:
            await self._read_whole()
        elif left:
            table = self._statuses[left[0]].table
            await self._retry.call(partial(self._source.prepare, table))
            await self._read_chunks(table)
        return bool(left)

    async def _pause(self) -> None:
        self._woken.clear()
        try:
            async with asyncio.timeout(_LOOK):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _read_chunks(self, table: TableSchema) -> None:
        """To the table's end, one chunk ahead: while one waits for its mark, the next is read."""
        progress, waiting = self.tables[table.label], None
        while waiting or not progress.done:
            ahead = None if progress.done else await self._read_chunk(table, progress)
            if waiting and not await waiting.is_emitted():
                progress, waiting = self.tables[table.label], None  # both are read again
            else:
                progress, waiting = ahead.beyond if ahead else progress, ahead

    async def _read_chunk(self, table: TableSchema, before: TableProgress) -> Window:
        window = Window(table, before)
        self._windows.append(window)
        rows = self._config.snapshot_chunk
        read = partial(self._source.chunk, table, before.after, rows, before.where)
        chunk = await self._retry.call(read)
        failpoint("chunk")
        window.mark = await self._retry.call(self._source.head)
        window.chunk = chunk
        return window

    async def _read_whole(self) -> None:
        """Read the tables without a key, all as of one moment; from the start if that breaks off.

        They are done once the stream has passed that moment: until then it may still give what
        the read has shown.
        """
        whole = self._whole
        tables = [self._statuses[label].table for label in whole.labels if label in self._statuses]
        while not whole.complete:
            try:
                for table in tables:
                    await self._source.prepare(table)
                async with self._source.reading(tables) as reading:
                    whole.change(reading)
                    for table in tables:
                        await self._read_rows(table)
                    whole.mark = await self._retry.call(self._source.head)
                    whole.change(reading, complete=True)
            except TransientError as error:
                whole.change(None)
                await self._retry.wait(error)
        await whole.emitted.wait()

    async def _read_rows(self, table: TableSchema) -> None:
        assert self._whole.reading is not None
        progress = replace(self.tables[table.label], rows=0)
        rows = self._config.snapshot_chunk
        async for chunk in self._whole.reading.chunks(table, progress.where, rows):
            failpoint("chunk")
            shape = chunk.table or table
            events = self._events(progress, shape, chunk.rows, numbered=True)
            progress = replace(progress, rows=progress.rows + len(chunk.rows))
            self.tables[table.label] = progress
            assert self._position is not None
            for batch in self._cut(events, self._position, chunk.size, {table.label: progress}):
                await self._put(batch)

    # -- beside the stream

    def begin(self, position: Position) -> None:
        """The pipeline is ours, its stream stands, and everything up to `position` is buffered.

        Before a slot is made there is no stream, and a change after the read would be in neither.
        """
        self._position = position
        self._begun.set()

    async def admit(self, batch: Batch) -> Batch:
        """`batch` without what the read of a table without a key shows; may wait for that."""
        if not self._whole.paths or not self._begun.is_set():
            return batch
        events = await self._whole.admit(batch.events)
        return batch if events is batch.events else replace(batch, events=events)

    def follow(self, batch: Batch) -> list[Batch]:
        """What to deliver after `batch`: the chunk, once the stream has passed its mark."""
        found = self._end_whole(batch.position)
        for window in self._windows:
            window.watch(batch.events)
        while self._windows and self._has_passed(self._windows[0], batch.position):
            window = self._windows.popleft()
            if window.again:  # what was read ahead goes on behind it
                self._windows.clear()
            else:
                found += self._emit(window, batch.position)
            window.end()
        return found

    def _has_passed(self, window: Window, position: Position) -> bool:
        if window.chunk is None or window.mark is None:
            return False
        return self._source.passed(position, window.mark)

    def _end_whole(self, position: Position) -> list[Batch]:
        whole = self._whole
        if not whole.complete or whole.mark is None:
            return []
        if not self._source.passed(position, whole.mark):
            return []
        self._whole = Whole()
        done = {label: replace(self.tables[label], done=True) for label in whole.labels}
        for label, progress in done.items():
            self._note(label, progress)
        whole.paths.clear()
        whole.change(None)
        whole.emitted.set()
        return [Batch([], position, 0, done)]

    def _emit(self, window: Window, position: Position) -> list[Batch]:
        assert window.chunk is not None
        label, progress, chunk = window.table.label, window.beyond, window.chunk
        events = self._events(progress, chunk.table or window.table, list(window.rows()))
        self._note(label, progress)
        return self._cut(events, position, chunk.size, {label: progress})

    def _note(self, label: str, progress: TableProgress) -> None:
        self.tables[label] = progress
        if progress.done:
            log.info("backfill of %s done: %d rows", label, progress.rows)

    def _events(
        self,
        progress: TableProgress,
        table: TableSchema,
        rows: Sequence[Change],
        *,
        numbered: bool = False,
    ) -> list[Event]:
        """Rows without a key may be alike: they are `numbered`, so that each is an event."""
        transaction = Transaction(progress.started, progress.ts)
        prefix = f"{self._source.identity}:{progress.started}:r:"
        contents = [row.content() for row in rows]
        if numbered:
            contents = [b"%d\0%b" % (progress.rows + n, c) for n, c in enumerate(contents)]
        ids = _digests(f"{table.label}\0{table.fingerprint}", contents)
        return [
            Event(prefix + id, "r", table, row, transaction)
            for id, row in zip(ids, rows, strict=True)
        ]

    def _cut(
        self, events: list[Event], position: Position, size: int, progress: dict[str, Any]
    ) -> list[Batch]:
        """Batches within the limit; only the last one carries the progress."""
        limit = self._batch_events
        parts = [events[at : at + limit] for at in range(0, len(events), limit)] or [[]]
        batches = [Batch(part, position, size // len(parts)) for part in parts]
        batches[-1].progress = progress
        return batches


_CASE = "name an existing table as schema.table; case counts"


def _digests(shape: str, contents: Iterable[bytes]) -> Iterator[str]:
    """The same row read again gives the same id; a row that has changed since, another.

    So does one whose bytes have another meaning since, as a column was renamed.
    """
    common = hashlib.blake2b(f"{shape}\0".encode("utf-8", "surrogatepass"), digest_size=12)
    for content in contents:
        digest = common.copy()
        digest.update(content)
        yield digest.hexdigest()
