"""The backfill reads one chunk ahead, and delivers chunks in their order all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, ClassVar

from tailrace.backfill import Backfill
from tailrace.config import PipelineConfig, PluginConfig
from tailrace.connector import BackfillSource, Chunk, Setup, TableStatus
from tailrace.event import Batch, Event, Op, Position, Transaction
from tailrace.retry import Retry
from tailrace.row import Images
from tailrace.schema import TableSchema

TABLE = TableSchema("shop", "public", "orders", (), ("id",))
ROWS = 25
CHUNK = 10
FIRST, SECOND, THIRD = None, ("10",), ("20",)


class Shelf(BackfillSource):
    """A table of `ROWS` rows. Every chunk's mark is one further than the one before."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig

    def __init__(self) -> None:
        super().__init__(PluginConfig(), Setup("test"))
        self.reads: list[tuple[str, ...] | None] = []

    @property
    def identity(self) -> str:
        return "shelf"

    def stream(self, after: Position | None) -> AsyncGenerator[Batch, None]:
        raise NotImplementedError

    async def release(self, position: Position) -> None:
        raise NotImplementedError

    async def head(self) -> Position:
        return Position(str(len(self.reads)))

    def passed(self, position: Position, mark: Position) -> bool:
        return int(position) >= int(mark)

    async def tables(self) -> list[TableStatus]:
        return [TableStatus(TABLE, ROWS)]

    async def chunk(
        self, table: TableSchema, after_key: tuple[str, ...] | None, limit: int, where: str | None
    ) -> Chunk:
        self.reads.append(after_key)
        low = int(after_key[0]) if after_key else 0
        ids = range(low + 1, min(low + limit, ROWS) + 1)
        rows = [Images(key={"id": n}, after={"id": n, "note": "long"}) for n in ids]
        return Chunk(rows, (str(ids[-1]),) if len(ids) == limit else None)


def change(op: Op, key: int, *, before: int | None = None, left_out: tuple[str, ...] = ()) -> Event:
    old = None if before is None else {"id": before}
    after = None if op == "d" else {"id": key}
    images = Images({"id": key}, old, after, left_out)
    return Event(f"log:{op}:{key}", op, TABLE, images, Transaction(Position("0"), 0))


def run(scenario: Callable[[Shelf, Backfill], Coroutine[Any, Any, None]]) -> None:
    async def put(batch: Batch) -> None:
        raise AssertionError("only tables without a key are put")

    async def main() -> None:
        shelf = Shelf()
        keys = {"source": "shelf", "sink": "list", "name": "test", "snapshot.chunk": CHUNK}
        backfill = Backfill(shelf, PipelineConfig(**keys), Retry("backfill"), put)  # type: ignore[arg-type]
        await backfill.plan({})
        backfill.begin(Position("0"))
        task = asyncio.create_task(backfill.run())
        try:
            await scenario(shelf, backfill)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


async def others() -> None:
    """All that can go on without the stream does."""
    for _ in range(50):
        await asyncio.sleep(0)


def ids(batches: list[Batch]) -> list[int]:
    return [event.after["id"] for batch in batches for event in batch.events if event.after]


def test_one_chunk_is_read_ahead_and_no_more() -> None:
    async def scenario(shelf: Shelf, backfill: Backfill) -> None:
        await others()
        assert shelf.reads == [FIRST, SECOND]
        assert backfill.follow(Batch([], Position("0"))) == []
        first = backfill.follow(Batch([], Position("1")))
        assert ids(first) == list(range(1, 11))
        assert first[-1].progress["public.orders"].after == SECOND
        await others()
        assert shelf.reads == [FIRST, SECOND, THIRD]
        rest = backfill.follow(Batch([], Position("9")))
        assert ids(rest) == list(range(11, 26))
        assert rest[-1].progress["public.orders"].rows == ROWS
        assert backfill.complete

    run(scenario)


def test_what_the_log_touches_is_left_out_of_both() -> None:
    async def scenario(shelf: Shelf, backfill: Backfill) -> None:
        await others()
        touched = [change("d", 3), change("u", 12)]
        assert backfill.follow(Batch(touched, Position("0"))) == []
        found = backfill.follow(Batch([], Position("2")))
        assert ids(found) == [n for n in range(1, 21) if n not in (3, 12)]

    run(scenario)


def test_a_chunk_that_is_read_again_is_not_overtaken_by_the_one_ahead() -> None:
    """Row 3 gets the key of row 4, which has just gone; its note is only in the chunk."""

    async def scenario(shelf: Shelf, backfill: Backfill) -> None:
        await others()
        moves = [change("d", 4), change("u", 4, before=3, left_out=("note",))]
        assert backfill.follow(Batch(moves, Position("2"))) == []
        await others()
        assert shelf.reads == [FIRST, SECOND, FIRST, SECOND]
        assert ids(backfill.follow(Batch([], Position("9")))) == list(range(1, 21))

    run(scenario)
