"""What every checkpoint store must do. A class of tests; whoever has the store gives `opener`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from findings import said, troubles
from tailrace.checkpoint import (
    VERSION,
    BackfillRequest,
    Checkpoint,
    CheckpointStore,
    TableProgress,
)
from tailrace.errors import CheckpointError, FencedError, TransientError
from tailrace.event import Position
from tailrace.stores.records import Record, RecordStore

T = TypeVar("T")
Opener = Callable[[], CheckpointStore]
"""Each call is a store as another process would open it."""

FIRST = Checkpoint(
    source="pg:7423",
    position=Position("0/1A2B3C8:4"),
    tables={"public.orders": TableProgress(Position("0/1"), 1_700_000_000_000_000, ("7", "é"), 9)},
)
ORDERS = BackfillRequest("1", "public.orders", "total > 9.50 AND note = 'é'")
PEOPLE = BackfillRequest("2", "public.people")


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main)


def moved(checkpoint: Checkpoint, position: str) -> Checkpoint:
    return replace(checkpoint, position=Position(position))


async def load(store: CheckpointStore, name: str = "orders") -> Checkpoint | None:
    async with store:
        return await store.load(name)


async def claim_first(store: CheckpointStore, name: str = "orders") -> Checkpoint:
    async with store:
        return await store.claim(name, FIRST)


async def asked(store: CheckpointStore, name: str = "orders") -> list[BackfillRequest]:
    async with store:
        return await store.asked(name)


class StoreContract:
    """One writer, nothing lost, nothing taken for new."""

    def test_what_is_saved_comes_back(self, opener: Opener) -> None:
        async def main() -> None:
            async with opener() as store:
                assert await store.load("orders") is None
                mine = await store.claim("orders", FIRST)
                assert mine == replace(FIRST, epoch=1)
                assert await store.load("orders") == mine
                for number in range(1, 10):
                    await store.save("orders", moved(mine, f"0/{number}"))
            assert await load(opener()) == moved(mine, "0/9")
            async with opener() as store:  # without a look at it first
                await store.save("orders", moved(mine, "0/10"))
            assert await load(opener()) == moved(mine, "0/10")

        run(main())

    def test_names_and_deletion(self, opener: Opener) -> None:
        async def main() -> None:
            async with opener() as store:
                assert await store.names() == []
                for name in ("b", "a.b-c_D"):
                    await store.claim(name, FIRST)
                assert await store.names() == ["a.b-c_D", "b"]
                await store.delete("b")
                await store.delete("never-there")
                assert await store.names() == ["a.b-c_D"]
                assert await store.load("b") is None

        run(main())

    def test_any_name_of_a_pipeline_will_do(self, opener: Opener) -> None:
        names = ["-", ".", "..", ".a.", "_", "a", "a..b", "x" * 100]

        async def main() -> None:
            async with opener() as store:
                for number, name in enumerate(names):
                    await store.claim(name, moved(FIRST, str(number)))
                    await store.ask(name, BackfillRequest(str(number), "public.orders"))
                assert await store.names() == sorted(names)
                for number, name in enumerate(names):
                    kept = await store.load(name)
                    assert kept is not None
                    assert kept.position == str(number)
                    assert [each.id for each in await store.asked(name)] == [str(number)]

        run(main())

    def test_c11_a_claim_on_an_epoch_that_has_passed_is_refused(self, opener: Opener) -> None:
        async def main() -> None:
            async with opener() as one, opener() as two:
                mine = await one.claim("orders", FIRST)
                with pytest.raises(FencedError, match=r"orders.*epoch 1 is stored, this one has 0"):
                    await two.claim("orders", FIRST)
                assert await two.load("orders") == mine

        run(main())

    def test_c11_of_many_claims_at_once_one_holds(self, opener: Opener) -> None:
        async def claim(store: CheckpointStore) -> int:
            try:
                return (await claim_first(store)).epoch
            except FencedError:
                return 0

        async def main() -> None:
            epochs = await asyncio.gather(*(claim(opener()) for _ in range(6)))
            assert sorted(epochs) == [0] * 5 + [1]

        run(main())

    def test_c12_the_older_writer_is_fenced_for_good(self, opener: Opener) -> None:
        async def main() -> None:
            async with opener() as one, opener() as two:
                old = await one.claim("orders", FIRST)
                await one.save("orders", moved(old, "0/2"))
                new = await two.claim("orders", old)
                assert new.epoch > old.epoch
                with pytest.raises(FencedError):
                    await one.save("orders", moved(old, "0/9"))
                await two.save("orders", moved(new, "0/3"))
                with pytest.raises(FencedError):
                    await one.save("orders", moved(old, "0/9"))
                assert await one.load("orders") == moved(new, "0/3")
                with pytest.raises(FencedError):  # though it has seen the newer one
                    await one.save("orders", moved(old, "0/9"))
                with pytest.raises(FencedError):
                    await one.claim("orders", old)
                assert await one.load("orders") == moved(new, "0/3")

        run(main())

    def test_c12_a_writer_from_before_a_deletion_stays_fenced(self, opener: Opener) -> None:
        async def main() -> None:
            async with opener() as one, opener() as two:
                old = await one.claim("orders", FIRST)
                await two.delete("orders")
                with pytest.raises(FencedError, match="deleted"):
                    await one.save("orders", old)
                new = await two.claim("orders", FIRST)
                with pytest.raises(FencedError):
                    await one.save("orders", moved(old, "0/9"))
                assert await one.load("orders") == new

        run(main())

    def test_requests_wait_oldest_first_until_answered(self, opener: Opener) -> None:
        async def main() -> None:
            async with opener() as store:
                assert await store.asked("orders") == []
                for request in (PEOPLE, ORDERS):
                    await store.ask("orders", request)
            assert await asked(opener()) == [PEOPLE, ORDERS]
            async with opener() as store:
                await store.answer("orders", PEOPLE.id)
                await store.answer("orders", "never-asked")
                await store.answer("never-there", "1")
            assert await asked(opener()) == [ORDERS]

        run(main())

    def test_the_same_id_is_one_request(self, opener: Opener) -> None:
        async def main() -> None:
            async with opener() as one, opener() as two:
                await one.ask("orders", ORDERS)
                await two.ask("orders", ORDERS)
                await one.ask("billing", ORDERS)
                assert await one.asked("orders") == [ORDERS]
                await one.answer("orders", ORDERS.id)
                assert await two.asked("orders") == []
                assert await two.asked("billing") == [ORDERS]

        run(main())

    def test_anybody_may_ask_beside_the_writer(self, opener: Opener) -> None:
        async def main() -> None:
            async with opener() as writer, opener() as other:
                mine = await writer.claim("orders", FIRST)
                await other.ask("orders", ORDERS)
                await writer.save("orders", mine)
                assert await writer.asked("orders") == [ORDERS]
                assert await other.load("orders") == mine

        run(main())

    def test_requests_asked_at_once_are_all_kept(self, opener: Opener) -> None:
        requests = [BackfillRequest(str(number), "public.orders") for number in range(8)]

        async def ask(request: BackfillRequest, store: CheckpointStore) -> None:
            async with store:
                await store.ask("orders", request)

        async def main() -> None:
            await asyncio.gather(*(ask(request, opener()) for request in requests))
            assert {each.id for each in await asked(opener())} == {each.id for each in requests}

        run(main())

    def test_requests_are_no_pipeline_and_go_with_it(self, opener: Opener) -> None:
        async def main() -> None:
            async with opener() as store:
                for name in ("orders", "orders.requests"):
                    await store.ask(name, ORDERS)
                assert await store.names() == []
                assert await store.load("orders") is None
                await store.delete("orders")
                assert await store.asked("orders") == []
                assert await store.asked("orders.requests") == [ORDERS]
                await store.ask("orders", PEOPLE)
                assert await store.asked("orders") == [PEOPLE]

        run(main())


class LastingContract(StoreContract):
    """And what is kept is checked when it is read."""

    def test_a_check_makes_nothing(self, opener: Opener) -> None:
        async def main() -> None:
            made = await opener().made()
            assert troubles(await opener().check()) == []
            assert await opener().peek("orders") is None
            assert await opener().made() is made
            claimed = await claim_first(opener())
            assert await opener().made()
            assert said("store", await opener().check()) == "can be read and written"
            assert await opener().peek("orders") == claimed
            assert await opener().peek("others") is None

        run(main())

    def test_c13_a_newer_checkpoint_is_refused(self, opener: Opener) -> None:
        async def main() -> None:
            async with opener() as store:
                await store.claim("orders", replace(FIRST, version=VERSION + 1))
            for _ in range(2):  # C19: the same error at every start
                with pytest.raises(CheckpointError, match=f"has version {VERSION + 1}; this"):
                    await load(opener())

        run(main())


class RecordContract(LastingContract):
    """For stores at a far end: an answer that is lost on the way is no answer."""

    def test_a_write_whose_answer_was_lost_is_ours(self, opener: Opener) -> None:
        async def main() -> None:
            async with opener() as store:
                lose_answers(store, 2)
                with pytest.raises(TransientError):
                    await store.claim("orders", FIRST)
                mine = await store.claim("orders", FIRST)
                assert mine == replace(FIRST, epoch=1)
                with pytest.raises(TransientError):
                    await store.save("orders", moved(mine, "0/2"))
                await store.save("orders", moved(mine, "0/3"))
                assert await store.load("orders") == moved(mine, "0/3")
                assert (await store.claim("orders", moved(mine, "0/3"))).epoch == 2

        run(main())


def lose_answers(store: CheckpointStore, count: int) -> None:
    """What is written next is stored, and then the connection breaks, `count` times.

    A stand-in: no server can be made to break off just there.
    """
    assert isinstance(store, RecordStore)
    swap, left = store.swap, iter(range(count))

    async def losing(name: str, record: Record) -> Record | None:
        written = await swap(name, record)
        if next(left, None) is not None:
            raise TransientError("the answer is lost")
        return written

    store.swap = losing  # type: ignore[method-assign]
