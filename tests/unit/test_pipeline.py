"""The pipeline's own promises, between a log, a sink and a store that can be held up and broken.

The same with real servers is in ``tests/e2e`` and ``tests/postgres``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import pytest
from msgspec import structs

from tailrace import failpoint
from tailrace.buffer import Buffer
from tailrace.checkpoint import Checkpoint
from tailrace.config import PipelineConfig, PluginConfig
from tailrace.connector import BackfillSource, Chunk, Setup, Sink, TableStatus
from tailrace.errors import CheckpointError, PositionLostError, TransientError
from tailrace.event import Batch, Event, Position, Transaction
from tailrace.formats.json import JsonConfig, JsonFormat
from tailrace.pipeline import Pipeline
from tailrace.row import Images
from tailrace.schema import Column, TableSchema
from tailrace.stores.memory import MemoryStore

TABLE = TableSchema("shop", "public", "orders", (Column("id", "int64", "bigint"),), ("id",))
DEADLINE = 20.0

Trace = list[tuple[str, int]]


def event(n: int, key: int | None = None) -> Event:
    row = {"id": n if key is None else key, "n": n}
    transaction = Transaction(Position(str(n)), n)
    return Event(f"log:{n}", "c", TABLE, Images(key={"id": row["id"]}, after=row), transaction)


class Log(BackfillSource):
    """A log of `length` events, one a batch, whose positions are whole numbers."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig

    def __init__(self, trace: Trace, length: int) -> None:
        super().__init__(PluginConfig(), Setup("test"))
        self.trace = trace
        self.length = length
        self.rows: list[int] = []
        self.breaks: set[int] = set()
        self.opened = asyncio.Event()
        self.opened.set()
        self.standing = False
        self.moved = asyncio.Event()

    @property
    def identity(self) -> str:
        return "log"

    async def stream(self, after: Position | None) -> AsyncGenerator[Batch, None]:
        await self.opened.wait()
        self.standing = True
        at = int(after or 0)
        yield Batch([], Position(str(at)))
        while True:
            while at < self.length:
                at += 1
                if at in self.breaks:
                    self.breaks.remove(at)
                    raise TransientError("the log broke")
                yield Batch([event(at)], Position(str(at)), 10)
            self.moved.clear()
            await self.moved.wait()
            yield Batch([], Position(str(at)))

    async def release(self, position: Position) -> None:
        self.trace.append(("released", int(position)))

    async def head(self) -> Position:
        self.moved.set()
        return Position(str(self.length))

    def passed(self, position: Position, mark: Position) -> bool:
        return int(position) >= int(mark)

    async def tables(self) -> list[TableStatus]:
        return [TableStatus(TABLE, len(self.rows))]

    async def chunk(
        self,
        table: TableSchema,
        after_key: tuple[str, ...] | None,
        limit: int,
        where: str | None,
    ) -> Chunk:
        assert self.standing, "read before there was a stream"
        rest = [n for n in self.rows if n > int(after_key[0] if after_key else 0)][:limit]
        rows = [Images(key={"id": n}, after={"id": n, "n": 0}) for n in rest]
        return Chunk(rows, (str(rest[-1]),) if len(rest) == limit else None)


class Held(Sink):
    """Keeps the events. `before` is awaited before each batch."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig

    def __init__(self, trace: Trace) -> None:
        form = JsonFormat(JsonConfig(), name="test", connector="log")
        super().__init__(PluginConfig(), Setup("test"), form)
        self.trace = trace
        self.events: list[Event] = []
        self.sizes: list[int] = []
        self.before: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0)
        self.stored: list[Position | TransientError | None] = [None]

    async def position(self) -> Position | None:
        """The next of `stored`; the last one for ever."""
        stored = self.stored[0]
        del self.stored[: len(self.stored) > 1]
        if isinstance(stored, TransientError):
            raise stored
        return stored

    async def write(self, batch: Batch) -> None:
        await self.before()
        self.events += batch.events
        self.sizes.append(len(batch.events))
        self.trace.append(("durable", int(batch.position)))

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.events]


class Slow(MemoryStore):
    """`before` is awaited before each save."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace
        self.before: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0)

    async def save(self, name: str, checkpoint: Checkpoint) -> None:
        await self.before()
        await super().save(name, checkpoint)
        self.trace.append(("saved", int(checkpoint.position or 0)))


class Bench:
    """The three of them, and the pipeline between."""

    def __init__(self, length: int = 0, **settings: Any) -> None:
        self.trace: Trace = []
        self.source = Log(self.trace, length)
        self.sink = Held(self.trace)
        self.store = Slow(self.trace)
        settings = {"snapshot": "never", **settings}
        self.config = PipelineConfig(name="test", source="log", sink="held", **settings)

    def pipeline(self) -> Pipeline:
        return Pipeline(self.config, self.source, self.sink, self.store)

    async def once(self) -> None:
        await asyncio.wait_for(self.pipeline().run(once=True), DEADLINE)


def ids(numbers: Sequence[int]) -> list[str]:
    return [f"log:{n}" for n in numbers]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.001)


def test_released_never_passes_saved_nor_saved_durable() -> None:
    async def work() -> Bench:
        bench = Bench(200, **{"batch.events": 7})
        await bench.once()
        return bench

    bench = asyncio.run(work())
    reached = {"durable": 0, "saved": 0, "released": 0}
    for what, position in bench.trace:
        assert position >= reached[what]
        reached[what] = position
        assert reached["released"] <= reached["saved"] <= reached["durable"], bench.trace
    assert set(reached.values()) == {200}


def test_what_is_delivered_and_not_saved_stays_within_one_batch() -> None:
    async def work() -> Bench:
        bench = Bench(500, **{"batch.events": 10})
        bench.store.before = lambda: asyncio.sleep(0.002)
        await bench.once()
        return bench

    bench = asyncio.run(work())
    durable = saved = 0
    for what, position in bench.trace:
        if what == "durable":
            durable = position
        elif what == "saved":
            saved = position
        assert durable - saved <= 10, bench.trace
    assert max(bench.sink.sizes) <= 10


def test_a_broken_stream_goes_on_where_it_was() -> None:
    async def work() -> Bench:
        bench = Bench(50)
        bench.source.breaks = {1, 20, 21, 50}
        await bench.once()
        return bench

    assert asyncio.run(work()).sink.ids == ids(range(1, 51))


@pytest.mark.parametrize("point", ["read:3", "chunk"])
def test_a_failure_between_source_and_buffer_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setattr(failpoint, "_armed", failpoint._Armed(f"{point}:raise"))

    async def work() -> Bench:
        bench = Bench(3, snapshot="initial")
        bench.source.rows = [100, 200]
        with pytest.raises(TransientError) if point == "chunk" else nullcontext():
            await bench.once()
        await bench.once()
        return bench

    bench = asyncio.run(work())
    assert set(ids(range(1, 4))) <= set(bench.sink.ids)
    assert {event.after["id"] for event in bench.sink.events if event.after} >= {100, 200}


def test_no_chunk_is_read_before_the_stream_stands() -> None:
    """A change between the read and the start of the stream would be in neither."""

    async def work() -> Bench:
        bench = Bench(5, snapshot="initial")
        bench.source.rows = [100]
        bench.source.opened.clear()
        running = asyncio.create_task(bench.once())
        await asyncio.sleep(0.05)
        bench.source.opened.set()
        await running
        return bench

    bench = asyncio.run(work())
    assert [event.op for event in bench.sink.events].count("r") == 1


def test_a_row_that_the_log_touches_meanwhile_is_not_read_over_it() -> None:
    async def work() -> Bench:
        bench = Bench(snapshot="initial")
        bench.source.rows = [2, 3, 100]
        running = asyncio.create_task(bench.pipeline().run())
        read_chunk = bench.source.chunk

        async def chunk(*arguments: Any) -> Chunk:
            read = await read_chunk(*arguments)
            bench.source.length = 5
            return read

        setattr(bench.source, "chunk", chunk)  # noqa: B010
        await until(lambda: len(bench.sink.events) == 6)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return bench

    events = asyncio.run(work()).sink.events
    assert [(event.op, (event.key or {})["id"]) for event in events[-1:]] == [("r", 100)]
    assert [event.id for event in events[:-1]] == ids(range(1, 6))


def test_progress_is_not_saved_before_its_rows_are_durable() -> None:
    """The chunk has been read and waits behind a batch that the sink is writing."""

    async def work() -> Checkpoint | None:
        bench = Bench(3, snapshot="initial")
        bench.source.rows = [100]
        turn = asyncio.Semaphore(0)
        bench.sink.before = turn.acquire
        pipeline = bench.pipeline()
        running = asyncio.create_task(pipeline.run())
        await until(lambda: any(table.rows for table in pipeline.stats.tables.values()))
        turn.release()
        await until(lambda: ("released", 3) in bench.trace or ("released", 1) in bench.trace)
        saved = await bench.store.load("test")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert "r" not in {event.op for event in bench.sink.events}
        return saved

    saved = asyncio.run(work())
    assert saved is not None
    assert saved.position is not None
    assert [(table.rows, table.done) for table in saved.tables.values()] == [(0, False)]


def test_a_checkpoint_of_another_source_is_refused() -> None:
    async def work() -> Bench:
        bench = Bench(5)
        await bench.store.claim("test", Checkpoint("another", Position("3")))
        with pytest.raises(PositionLostError, match="is for another, but the database is log"):
            await bench.once()
        return bench

    assert asyncio.run(work()).sink.events == []


def test_it_goes_on_after_the_checkpoint() -> None:
    async def work() -> Bench:
        bench = Bench(5)
        await bench.once()
        bench.source.length = 8
        await bench.once()
        return bench

    assert asyncio.run(work()).sink.ids == ids(range(1, 9))


@pytest.mark.parametrize(
    ("saved", "stored", "expected"),
    [("3", "5", 6), ("5", "3", 6), ("5", "5", 6), ("5", None, 6), (None, "5", 1)],
    ids=["sink newer", "checkpoint newer", "same", "sink has none", "checkpoint has none"],
)
def test_the_newer_of_checkpoint_and_sink_is_gone_on_after(
    saved: str | None, stored: str | None, expected: int
) -> None:
    async def work() -> Bench:
        bench = Bench(8)
        position = None if saved is None else Position(saved)
        await bench.store.claim("test", Checkpoint("log", position))
        bench.sink.stored = [None if stored is None else Position(stored)]
        await bench.once()
        return bench

    bench = asyncio.run(work())
    assert bench.sink.ids == ids(range(expected, 9))
    assert bench.trace[-1] == ("released", 8)


def test_a_sink_that_cannot_say_its_position_yet_is_asked_again() -> None:
    async def work() -> Bench:
        bench = Bench(8)
        await bench.store.claim("test", Checkpoint("log", Position("3")))
        bench.sink.stored = [TransientError("away"), TransientError("away"), Position("6")]
        await bench.once()
        return bench

    assert asyncio.run(work()).sink.ids == ids([7, 8])


def test_another_instance_that_ran_until_now_is_gone_on_after() -> None:
    """Its checkpoint is newer than the one that was loaded, and so is what the sink has."""

    async def work() -> Bench:
        bench = Bench(9)
        first = await bench.store.claim("test", Checkpoint("log", Position("2")))
        bench.sink.stored = [Position("4"), Position("7")]
        bench.source.opened.clear()
        running = asyncio.create_task(bench.once())
        await until(lambda: len(bench.sink.stored) == 1)
        await bench.store.save("test", structs.replace(first, position=Position("6")))
        bench.source.opened.set()
        await running
        return bench

    assert asyncio.run(work()).sink.ids == ids([8, 9])


def test_a_drain_delivers_what_was_read_and_saves_it() -> None:
    async def work() -> Bench:
        bench = Bench(20)
        gate = asyncio.Event()
        bench.sink.before = gate.wait
        pipeline = bench.pipeline()
        running = asyncio.create_task(pipeline.run())
        await until(lambda: bench.source.standing)
        pipeline.drain()
        gate.set()
        await asyncio.wait_for(running, DEADLINE)
        return bench

    bench = asyncio.run(work())
    assert bench.sink.ids == ids(range(1, len(bench.sink.ids) + 1))
    assert bench.trace[-2:] == [("saved", len(bench.sink.ids)), ("released", len(bench.sink.ids))]


def test_a_drain_gives_up_on_a_stalled_sink(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        bench = Bench(20, grace="100ms")
        stalled = asyncio.Event()

        async def stall() -> None:
            stalled.set()
            await asyncio.sleep(3600)

        bench.sink.before = stall
        pipeline = bench.pipeline()
        running = asyncio.create_task(pipeline.run())
        await asyncio.wait_for(stalled.wait(), DEADLINE)
        pipeline.drain()
        await asyncio.wait_for(running, DEADLINE)

    asyncio.run(work())
    assert "not everything that was read could be delivered" in caplog.text


@pytest.mark.parametrize("draining", [False, True])
def test_a_store_that_fails_is_not_kept_quiet(draining: bool) -> None:
    async def work() -> None:
        bench = Bench(20)
        pipeline = bench.pipeline()

        async def fail() -> None:
            if draining:
                pipeline.drain()
                await asyncio.sleep(0.01)
            raise CheckpointError("torn")

        bench.store.before = fail
        with pytest.raises(CheckpointError, match="torn"):
            await asyncio.wait_for(pipeline.run(), DEADLINE)

    asyncio.run(work())


def test_the_buffer_merges_what_waits_up_to_its_limits() -> None:
    async def work() -> list[list[int]]:
        buffer = Buffer(events=4, size=1_000, memory=10_000)

        async def fill() -> None:
            for n in range(1, 11):
                await buffer.put(Batch([event(n)], Position(str(n)), 10))
            buffer.close()

        filling = asyncio.create_task(fill())
        taken = []
        await asyncio.sleep(0)
        while (batch := await buffer.take()) is not None:
            assert batch.position == batch.events[-1].position
            assert batch.size == 10 * len(batch.events)
            taken.append([int(event.position) for event in batch.events])
            await asyncio.sleep(0)
        await filling
        return taken

    assert asyncio.run(work()) == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_the_buffer_holds_no_more_than_memory_but_for_one_large_batch() -> None:
    async def work() -> None:
        buffer = Buffer(events=100, size=1_000, memory=100)
        await buffer.put(Batch([event(1)], Position("1"), 500))
        waiting = asyncio.create_task(buffer.put(Batch([event(2)], Position("2"), 1)))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assert await buffer.take() is not None
        await asyncio.sleep(0.01)
        assert not waiting.done(), "500 bytes are being written, and 100 may be in flight"
        taking = asyncio.create_task(buffer.take())
        taken = await asyncio.wait_for(taking, DEADLINE)
        assert taken is not None
        assert taken.position == "2"
        await waiting

    asyncio.run(work())
