"""The pipeline: one source to one sink under one name, from its checkpoint on.

Three tasks: the reader takes batches from the source (and, between them, the backfill's rows),
the writer hands them to the sink and settles them, the backfill reads existing rows. The order
durable, saved, released stands in `Pipeline._settle`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import AsyncExitStack, aclosing, suppress
from functools import partial

from msgspec import structs

from tailrace.backfill import Backfill
from tailrace.buffer import Buffer
from tailrace.checkpoint import Checkpoint, CheckpointStore, TableProgress, refuse_foreign
from tailrace.config import PipelineConfig
from tailrace.connector import BackfillSource, Sink, Source
from tailrace.errors import PositionLostError, TransientError
from tailrace.event import Batch, Position
from tailrace.failpoint import failpoint
from tailrace.hookspecs import Hooks
from tailrace.requests import Requests
from tailrace.retry import Retry
from tailrace.stats import Stats

_LAST_SAVE = 2.0

log = logging.getLogger("tailrace")


class Pipeline:
    """Runs once. `stats` may be read at any time; `drain` may be called at any time."""

    def __init__(
        self,
        config: PipelineConfig,
        source: Source,
        sink: Sink,
        store: CheckpointStore,
        hooks: Hooks | None = None,
    ) -> None:
        self._hooks = hooks
        self.config = config
        self.source = source
        self.sink = sink
        self.store = store
        self._reading = Retry("source")
        self._writing = Retry("sink")
        self._saving = Retry("checkpoint")
        self._copying = Retry("backfill")
        self._lost = False
        self._loaded: Checkpoint | None = None
        self._checkpoint = Checkpoint("", None)
        self._claimed = False
        self._goal: Position | None = None
        self._draining = asyncio.Event()
        self._stats = Stats()
        self._begin_afresh()

    def _begin_afresh(self) -> None:
        """Forget what is in flight; a new one at first, and when the position was lost."""
        config = self.config
        # Half of what may come again after a crash: while that is saved the next half is written.
        self._buffer = Buffer(
            max(1, config.batch_events // 2), max(1, config.batch_bytes // 2), config.memory
        )
        self._backfill: Backfill | None = None
        self._requests: Requests | None = None
        if isinstance(self.source, BackfillSource):
            self._backfill = Backfill(self.source, config, self._copying, self._buffer.put)
            self._requests = Requests(config.name, self.store, self._backfill, self._saving)
        self._durable: Checkpoint | None = None
        self._unsaved = 0
        self._unsaved_bytes = 0
        self._unsettled = asyncio.Event()
        self._saved = asyncio.Event()

    @property
    def stats(self) -> Stats:
        retries = (self._reading, self._writing, self._saving, self._copying)
        self._stats.error = next((retry.error for retry in retries if retry.error), "")
        self._stats.retries = sum(retry.total for retry in retries)
        if self._backfill:
            self._stats.tables = self._backfill.tables
            self._stats.estimates = self._backfill.estimates
        return self._stats

    def drain(self) -> None:
        """Stop reading, deliver what was read within the grace time, save, end `run`."""
        self._draining.set()

    async def run(self, *, once: bool = False) -> None:
        """Run until drained; with `once` until everything committed before now is delivered.

        Raises the first error that ends the pipeline: any TailraceError but a transient one, or
        what a bug raised. On return and on error everything is closed.
        """
        async with AsyncExitStack() as stack:
            if await self._unless_draining(self._open(stack, once)):
                await self._told(self._run())

    async def _open(self, stack: AsyncExitStack, once: bool) -> None:
        await stack.enter_async_context(self.store)
        await stack.enter_async_context(self.source)
        self.sink.source = self.source.identity
        await stack.enter_async_context(self.sink)
        try:
            await self._load()
        except PositionLostError as error:
            await self._start_over(error)
        if once or self.config.snapshot == "only":
            self._goal = await self._reading.call(self.source.head)

    async def _unless_draining(self, work: Coroutine[None, None, None]) -> bool:
        """Whether `work` came to its end; a drain breaks it off."""
        task = asyncio.create_task(work)
        drain = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait({task, drain}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            drain.cancel()
            ended = task.done()
            task.cancel()
            await asyncio.gather(task, drain, return_exceptions=True)
        if ended:
            task.result()
        return ended

    async def _told(self, work: Coroutine[None, None, None]) -> None:
        """Run `work` between the two life-cycle hooks."""
        name, hooks, config = self.config.name, self._hooks, self.config
        log.info("%s: starting at %s", name, self._checkpoint.position or "the beginning")
        if hooks is None:
            return await work
        hooks.pipeline_started(name=name, source=config.source, sink=config.sink)
        try:
            await work
        except BaseException as error:
            hooks.pipeline_stopped(name=name, error=error)
            raise
        hooks.pipeline_stopped(name=name, error=None)

    async def _run(self) -> None:
        """Run the tasks; begin anew when the position is lost, if the user wants that."""
        while True:
            try:
                return await self._run_tasks()
            except PositionLostError as error:
                await self._start_over(error)

    async def _start_over(self, lost: PositionLostError) -> None:
        """Under ``on_lost=resnapshot``: as at the first start, with all rows to be delivered.

        What upstream still has of ours goes first: after a crash in between the position is lost
        again. Raises `lost` under any other policy.
        """
        if self.config.on_lost != "resnapshot":
            raise lost
        log.warning("%s; beginning anew, as on_lost=resnapshot says", lost.message)
        if self._lost:
            await self._reading.wait(TransientError(lost.message))
        self._lost = True
        self._begin_afresh()
        await self._reading.call(self.source.reset)
        self._checkpoint = Checkpoint(
            self.source.identity, None, await self._plan({}), self._checkpoint.epoch
        )
        await self._claim()

    async def _run_tasks(self) -> None:
        """All tasks end together: the first failure cancels the others and is raised."""
        writer = asyncio.create_task(self._write(), name="writer")
        reader = asyncio.create_task(self._read(), name="reader")
        tasks = {
            writer,
            reader,
            asyncio.create_task(self._settle(), name="settler"),
            asyncio.create_task(self._drain(writer), name="drain"),
        }
        if self._backfill:
            tasks.add(asyncio.create_task(self._backfill.run(), name="backfill"))
        if self._requests:
            tasks.add(asyncio.create_task(self._requests.run(), name="requests"))
        try:
            running = tasks
            while not writer.done():
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if not task.cancelled():
                        task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _drain(self, writer: asyncio.Task[None]) -> None:
        """Once asked to: take nothing more, give the writer the grace time, then end it.

        The stream stays open until the writer is done: it keeps a second instance out.
        """
        await self._draining.wait()
        self._buffer.close()
        await asyncio.sleep(self.config.grace)
        log.warning(
            "not everything that was read could be delivered within %.0f s; it comes again at the"
            " next start",
            self.config.grace,
        )
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_saved(), _LAST_SAVE)
        writer.cancel()

    # -- reading

    async def _load(self) -> None:
        """The checkpoint to start from; a pipeline that has none gets one before it does anything.

        Raises PositionLostError for the checkpoint of another database.
        """
        name = self.config.name
        loaded = self._loaded = await self._saving.call(lambda: self.store.load(name))
        if loaded is None:
            await self._reading.call(self.source.begin)
            self._checkpoint = Checkpoint(self.source.identity, None, await self._plan({}))
            await self._claim()
            return
        self._checkpoint = loaded
        refuse_foreign(name, loaded, self.source.identity)
        if self._requests:
            self._requests.kept = loaded.tables
        position = await self._newest(loaded.position)
        self._stats.position = position or ""
        tables = await self._plan(loaded.tables)
        self._checkpoint = structs.replace(loaded, position=position, tables=tables)

    async def _newest(self, saved: Position | None) -> Position | None:
        """`saved`, or what the sink has stored if that is newer.

        A checkpoint without a position is of a pipeline that has only begun: what the sink has is
        of one before.
        """
        stored = await self._writing.call(self.sink.position)
        if stored is None or saved is None or not self.source.passed(stored, saved):
            return saved
        if stored != saved:
            log.info("the sink has everything up to %s, the checkpoint says %s", stored, saved)
        return stored

    async def _plan(self, saved: dict[str, TableProgress]) -> dict[str, TableProgress]:
        if self._backfill is None or self._requests is None:
            return saved
        planned = await self._backfill.plan(saved)
        await self._requests.look()
        return planned

    async def _claim(self) -> None:
        name, checkpoint = self.config.name, self._checkpoint
        self._checkpoint = await self._saving.call(lambda: self.store.claim(name, checkpoint))
        self._claimed = True

    async def _read(self) -> None:
        """Fill the buffer for ever; after a transient error go on where the last batch ended."""
        position = self._checkpoint.position
        if position is not None and await self._end_if_reached(position):
            return
        while True:
            try:
                async with aclosing(self.source.stream(position)) as stream:
                    async for batch in stream:
                        self._reading.succeeded()
                        if not self._claimed and not await self._take_over():
                            break
                        if self._backfill and position is not None:
                            self._backfill.begin(position)
                        if await self._pass_on(batch):
                            return
                        position = batch.position
            except TransientError as error:
                await self._reading.wait(error)
            except PositionLostError:
                if self._claimed or not await self._stale():
                    raise
            if not self._claimed:
                await self._load()
                position = self._checkpoint.position

    async def _take_over(self) -> bool:
        """Claim the checkpoint, now that the source gives us the stream.

        False if it moved since it was loaded: another instance has run until now.
        """
        if await self._stale():
            return False
        await self._claim()
        return True

    async def _stale(self) -> bool:
        stored = await self._saving.call(lambda: self.store.load(self.config.name))
        ours = self._loaded
        if stored is None or ours is None:
            return stored is not None
        return (stored.epoch, stored.position) != (ours.epoch, ours.position)

    async def _pass_on(self, batch: Batch) -> bool:
        """Buffer the batch and what the backfill adds; True when the goal is reached."""
        failpoint("read")
        backfill = self._backfill
        if backfill:
            batch = await backfill.admit(batch)
            batch.progress = backfill.news()
        await self._buffer.put(batch)
        if backfill:
            backfill.begin(batch.position)
            for chunk in backfill.follow(batch):
                await self._buffer.put(chunk)
        return await self._end_if_reached(batch.position)

    async def _end_if_reached(self, position: Position) -> bool:
        if not self._reached(position):
            return False
        self._buffer.close()
        await self._draining.wait()  # the stream stays open, so that release still reaches it
        return True

    def _reached(self, position: Position) -> bool:
        if self._goal is None or not self.source.passed(position, self._goal):
            return False
        return self._backfill is None or self._backfill.complete

    # -- writing

    async def _write(self) -> None:
        """Hand batches to the sink, one at a time; returns when all is written and saved.

        The next may be written while the last is being saved, as long as what is not saved stays
        within one batch's limits: a crash delivers at most that much again.
        """
        while (batch := await self._buffer.take()) is not None:
            while not self._may_overtake(batch):
                await self._next_save()
            if batch.events:
                await self._writing.call(partial(self.sink.write, batch))
            self._note_durable(batch)
        await self._all_saved()

    def _may_overtake(self, batch: Batch) -> bool:
        return not self._unsaved or (
            self._unsaved + len(batch.events) <= self.config.batch_events
            and self._unsaved_bytes + batch.size <= self.config.batch_bytes
        )

    async def _next_save(self) -> None:
        self._saved.clear()
        await self._saved.wait()

    async def _all_saved(self) -> None:
        while self._durable is not None or self._unsaved:
            await self._next_save()

    def _note_durable(self, batch: Batch) -> None:
        failpoint("durable")
        tables = {**self._checkpoint.tables, **(batch.progress or {})}
        self._checkpoint = structs.replace(self._checkpoint, position=batch.position, tables=tables)
        self._durable = self._checkpoint
        self._unsaved += len(batch.events)
        self._unsaved_bytes += batch.size
        self._unsettled.set()
        stats = self._stats
        stats.events += len(batch.events)
        stats.bytes += batch.size
        stats.batches += 1
        stats.position = batch.position
        if batch.events and batch.events[-1].op != "r":
            stats.last_ts = batch.events[-1].transaction.ts

    async def _settle(self) -> None:
        """What is durable is saved, then released. Nothing else saves a position or releases one.

        At every instant released <= saved <= durable: `_durable` is set once the sink has
        returned, and upstream hears of a position once the store has it.
        """
        while True:
            await self._unsettled.wait()
            self._unsettled.clear()
            durable, events, size = self._durable, self._unsaved, self._unsaved_bytes
            assert durable is not None
            await self._saving.call(partial(self.store.save, self.config.name, durable))
            if self._requests:
                self._requests.kept = durable.tables
            failpoint("saved")
            assert durable.position is not None
            await self.source.release(durable.position)
            self._unsaved -= events
            self._unsaved_bytes -= size
            if self._durable is durable:
                self._durable = None
            self._saved.set()
