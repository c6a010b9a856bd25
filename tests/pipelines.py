"""Pipelines in the test's own process: PostgreSQL to a list, with deadlines instead of sleeps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import psycopg

from tailrace.checkpoint import Checkpoint, CheckpointStore
from tailrace.config import PipelineConfig, PluginConfig
from tailrace.connector import Setup, Sink, Source
from tailrace.event import Batch, Event
from tailrace.formats.json import JsonConfig, JsonFormat
from tailrace.pipeline import Pipeline
from tailrace.stores.memory import MemoryStore
from tailrace_postgres.source import PostgresSource

DEADLINE = 30.0


class ListSink(Sink):
    """Keeps the batches. While `gate` is clear a write waits."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig

    def __init__(self) -> None:
        form = JsonFormat(JsonConfig(), name="test", connector="postgres")
        super().__init__(PluginConfig(), Setup("test"), form)
        self.batches: list[Batch] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def write(self, batch: Batch) -> None:
        await self.gate.wait()
        self.batches.append(batch)

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch.events]


class Run:
    """A pipeline that runs in a task."""

    def __init__(self, pipeline: Pipeline, source: Source, sink: ListSink) -> None:
        self.pipeline = pipeline
        self.source = source
        self.sink = sink
        self.task: asyncio.Task[None] | None = None

    @property
    def events(self) -> list[Event]:
        return self.sink.events

    async def until(self, condition: Callable[[], object], seconds: float = DEADLINE) -> None:
        """Wait for `condition`; raises what ended the pipeline if it comes to an end before."""
        await eventually(condition, seconds, self.task)

    async def streaming(self) -> None:
        """Wait until the stream stands: what is committed from now on is delivered."""
        await self.until(lambda: self.pipeline.stats.position)

    async def until_events(self, count: int) -> list[Event]:
        await self.until(lambda: len(self.events) >= count)
        return self.events

    async def until_backfilled(self) -> None:
        """Wait until every row that was there is delivered, and that is saved."""
        async with asyncio.timeout(DEADLINE):
            while not await self._backfilled():
                await self.until(lambda: True)
                await asyncio.sleep(0.01)

    async def _backfilled(self) -> bool:
        saved = await self.pipeline.store.load(self.pipeline.config.name)
        tables = saved.tables.values() if saved else ()
        return bool(tables) and all(table.done for table in tables)


async def eventually(
    condition: Callable[[], object],
    seconds: float = DEADLINE,
    task: asyncio.Task[None] | None = None,
) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        if task is not None and task.done():
            task.result()
            raise AssertionError("the pipeline ended")
        assert loop.time() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)


def pipeline(
    dsn: str,
    store: CheckpointStore | None = None,
    *,
    name: str = "test",
    source: type[PostgresSource] = PostgresSource,
    keys: Mapping[str, Any] = {},
    **settings: Any,
) -> Run:
    """`keys` are the source's, `settings` the pipeline's with ``_`` for the dot."""
    dotted = {key.replace("_", ".", 1): value for key, value in settings.items()}
    if "on.lost" in dotted:
        dotted["on_lost"] = dotted.pop("on.lost")
    if "snapshot.where" in dotted:
        dotted["snapshot.where.*"] = dotted.pop("snapshot.where")
    config = PipelineConfig(name=name, source="postgres", sink="list", **dotted)
    setup = Setup(name, "postgres", config.batch_events, config.batch_bytes)
    origin = source(source.Config(**{"dsn": dsn, **keys}), setup)  # type: ignore[arg-type]
    sink = ListSink()
    return Run(Pipeline(config, origin, sink, store or MemoryStore()), origin, sink)


@asynccontextmanager
async def running(
    dsn: str, store: CheckpointStore | None = None, **options: Any
) -> AsyncIterator[Run]:
    """The pipeline, started; drained at the end, unless it has ended before."""
    run = pipeline(dsn, store, **options)
    run.task = asyncio.create_task(run.pipeline.run())
    try:
        yield run
    finally:
        run.pipeline.drain()
        await asyncio.wait({run.task}, timeout=DEADLINE)
        assert run.task.done(), "the pipeline does not end"
    run.task.result()


def delivered_once(dsn: str, store: CheckpointStore | None = None, **options: Any) -> list[Event]:
    """What ``cdc run --once`` delivers."""
    run = pipeline(dsn, store, **options)
    asyncio.run(asyncio.wait_for(run.pipeline.run(once=True), DEADLINE))
    return run.events


class Notes(MemoryStore):
    """A memory store that remembers everything that was claimed and saved."""

    def __init__(self) -> None:
        super().__init__()
        self.claimed: list[Checkpoint] = []
        self.saved: list[Checkpoint] = []

    async def claim(self, name: str, checkpoint: Checkpoint) -> Checkpoint:
        self.claimed.append(await super().claim(name, checkpoint))
        return self.claimed[-1]

    async def save(self, name: str, checkpoint: Checkpoint) -> None:
        await super().save(name, checkpoint)
        self.saved.append(checkpoint)


def sql(dsn: str, *statements: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run the statements, each in its own transaction; the rows of the last."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements[:-1]:
            connection.execute(statement.encode())
        cursor = connection.execute(statements[-1].encode(), values or None)
        return cursor.fetchall() if cursor.description else []


def in_transaction(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def confirmed(dsn: str, slot: str = "test") -> int:
    """The slot's confirmed_flush_lsn in bytes."""
    query = (
        "SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots"
        f" WHERE slot_name = '{slot}'"
    )
    [(lsn,)] = sql(dsn, query)
    return int(lsn)


def images(event: Event) -> dict[str, Any]:
    """The members that the change itself writes, parsed."""
    text = "{" + event.change.json() + "}"
    parsed: dict[str, Any] = json.loads(text.encode("latin-1"))
    return parsed


def fold(events: Sequence[Event], table: str = "public.t") -> dict[Any, dict[str, Any]]:
    """What a consumer has that applies the events in order: rows by key."""
    rows: dict[Any, dict[str, Any]] = {}
    for event in events:
        if event.table.label != table:
            continue
        if event.op == "t":
            rows.clear()
            continue
        key = tuple((event.key or {}).values())
        names = list(event.key or {})
        old = tuple(event.before[name] for name in names) if event.before else key
        known = rows.pop(old, {})
        if event.op != "d":
            partial = {name: known[name] for name in event.unavailable if name in known}
            rows[key] = {**(event.after or {}), **partial}
    return rows
