"""The buffer merges what waits, and holds no more than it may."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tailrace.buffer import Buffer
from tailrace.event import Batch, Event, Position, Transaction
from tailrace.row import Images
from tailrace.schema import TableSchema

TABLE = TableSchema("db", None, "t", ())


def batch(number: int, events: int, size: int = 0, progress: Any = None) -> Batch:
    transaction = Transaction(Position(str(number)), 0)
    made = [Event(f"{number}:{n}", "c", TABLE, Images(), transaction) for n in range(events)]
    return Batch(made, transaction.position, size, progress)


async def steps() -> None:
    """Let every task come to where it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_what_waits_is_taken_as_one() -> None:
    async def scenario() -> None:
        buffer = Buffer(10, 100, 1000)
        await buffer.put(batch(1, 2, 10, {"a": 1}))
        await buffer.put(batch(2, 0))
        await buffer.put(batch(3, 3, 20, {"b": 2}))
        taken = await buffer.take()
        assert taken
        assert [event.id for event in taken.events] == ["1:0", "1:1", "3:0", "3:1", "3:2"]
        assert (taken.position, taken.size, taken.progress) == ("3", 30, {"a": 1, "b": 2})

    asyncio.run(scenario())


def test_take_waits_and_close_ends_it() -> None:
    async def scenario() -> None:
        buffer = Buffer(10, 100, 1000)
        taking = asyncio.create_task(buffer.take())
        await steps()
        assert not taking.done()
        await buffer.put(batch(1, 1))
        assert await taking
        await buffer.put(batch(2, 1))
        buffer.close()
        last = await buffer.take()
        assert last
        assert last.position == "2"
        assert await buffer.take() is None

    asyncio.run(scenario())


def waits(buffer: Buffer, put: list[Batch], *, taken: int = 0) -> bool:
    """Whether the last of the batches finds no room after `taken` takes."""

    async def scenario() -> bool:
        for one in put[:-1]:
            await buffer.put(one)
            if taken:
                await buffer.take()
        putting = asyncio.create_task(buffer.put(put[-1]))
        await steps()
        full = not putting.done()
        await buffer.take()
        await steps()
        if full and not putting.done():
            await buffer.take()
        await putting
        return full

    return asyncio.run(scenario())


def test_limits() -> None:
    assert waits(Buffer(3, 100, 1000), [batch(1, 2), batch(2, 2)])
    assert not waits(Buffer(4, 100, 1000), [batch(1, 2), batch(2, 2)])
    assert waits(Buffer(9, 100, 1000), [batch(1, 1, 60), batch(2, 1, 60)])
    assert not waits(Buffer(9, 100, 1000), [batch(1, 1, 5000)])  # one alone always fits
    assert waits(Buffer(9, 100, 150), [batch(1, 1, 90), batch(2, 1, 90)], taken=1)
    assert not waits(Buffer(9, 100, 200), [batch(1, 1, 90), batch(2, 1, 90)], taken=1)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 60)), max_size=40), st.integers(1, 5))
def test_nothing_is_lost_and_the_limits_hold(sizes: list[tuple[int, int]], pace: int) -> None:
    given_ = [batch(n, events, size) for n, (events, size) in enumerate(sizes)]

    async def fill(buffer: Buffer) -> None:
        for n, one in enumerate(given_):
            await buffer.put(one)
            if n % pace == 0:
                await asyncio.sleep(0)
        buffer.close()

    async def scenario() -> list[Batch]:
        buffer = Buffer(5, 50, 80)
        filling = asyncio.create_task(fill(buffer))
        taken = []
        while (one := await buffer.take()) is not None:
            taken.append(one)
            await asyncio.sleep(0)
        await filling
        return taken

    taken = asyncio.run(scenario())
    assert [e.id for t in taken for e in t.events] == [e.id for g in given_ for e in g.events]
    single = {one.position: one for one in given_}
    for one in taken:
        alone = single[one.position]
        assert len(one.events) <= max(5, len(alone.events))
        assert one.size <= max(50, alone.size)
    assert not given_ or taken[-1].position == given_[-1].position
