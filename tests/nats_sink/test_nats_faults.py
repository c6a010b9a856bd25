"""Things break while events are on their way: nothing is lost, and order holds per key."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from jetstream import (
    DeafProxy,
    Stored,
    api,
    batch,
    client,
    count,
    events,
    make_stream,
    sink,
    stored,
    until,
    write_as_pipeline,
)
from servers.proxy import Proxy
from tailrace.errors import TransientError
from tailrace_demo.servers import Nats

BOTH = pytest.mark.parametrize("batched", [True, False], ids=["fast", "pubacks"])


def lost_none_and_in_order(got: Stored, total: int) -> None:
    """Every change is there, and for each key the last one stored is the last one made."""
    assert set(got.numbers) == set(range(total))
    firsts = list(dict.fromkeys(got.numbers))
    assert firsts == list(range(total))
    assert got.last_of_each_key() == {row["id"]: row["n"] for row in _rows(total)}


def _rows(total: int) -> list[dict[str, int]]:
    return [{"id": n % 7, "n": n} for n in range(total)]


@BOTH
def test_n02_a_lost_acknowledgement_is_sent_again_and_stored_once(
    nats: Nats, batched: bool
) -> None:
    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=batched)
        async with (
            DeafProxy(nats.port) as way,
            sink(f"nats://127.0.0.1:{way.port}", window=900) as target,
        ):
            await target.write(batch(events(10)))
            way.deaf = True
            writing = asyncio.create_task(target.write(batch(events(800, start=10))))

            async def all_there() -> bool:
                # Without fast ingest the last one, with the stamp, waits for the others' answers.
                return await count(nats.url) == (810 if batched else 809)

            await until(all_there)
            assert not writing.done()
            way.deaf = False
            way.cut()
            await asyncio.wait_for(writing, 20)
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == list(range(810))


@BOTH
@pytest.mark.parametrize("seed", range(6))
def test_c02_a_connection_that_dies_anywhere_in_a_batch(
    nats: Nats, batched: bool, seed: int
) -> None:
    """The server gets a part of what is sent and acknowledges it; the rest must follow."""
    luck = random.Random(seed)

    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=batched)
        async with (
            DeafProxy(nats.port) as way,
            sink(f"nats://127.0.0.1:{way.port}", window=900) as target,
        ):
            for start in range(0, 9_000, 3_000):
                way.allowance = luck.randrange(1, 1_000_000)
                await write_as_pipeline(target, batch(events(3_000, start=start)))
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == list(range(9_000))


@BOTH
def test_n02_acknowledgements_that_stay_away_end_the_connection(nats: Nats, batched: bool) -> None:
    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=batched)
        async with DeafProxy(nats.port) as way:
            keys = {"ack.timeout": "300ms", "connect.timeout": "300ms"}
            async with sink(f"nats://127.0.0.1:{way.port}", **keys) as target:
                await target.write(batch(events(10)))
                way.deaf = True
                with pytest.raises(TransientError):
                    await target.write(batch(events(5, start=10)))
                way.deaf = False
                await target.write(batch(events(5, start=10)))
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == list(range(15))


@BOTH
def test_n02_a_frozen_connection_does_not_hold_the_sink(
    nats: Nats, proxy: Callable[[int], Proxy], batched: bool
) -> None:
    """Frozen with the socket's buffers full: closing must not wait for them."""

    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=batched)
        way = proxy(nats.port)
        keys = {"ack.timeout": "500ms", "connect.timeout": "300ms"}
        async with sink(f"nats://127.0.0.1:{way.port}", **keys) as target:
            await target.write(batch(events(10)))
            way.freeze()
            big = events(990, start=10, note="x" * 20_000)
            with pytest.raises(TransientError):
                await asyncio.wait_for(target.write(batch(big)), 20)
            way.thaw()
            await write_as_pipeline(target, batch(big))
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == list(range(1_000))


@BOTH
def test_connections_cut_while_writing(
    nats: Nats, proxy: Callable[[int], Proxy], batched: bool
) -> None:
    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=batched)
        way = proxy(nats.port)
        stop = asyncio.Event()

        async def cutting() -> None:
            cuts = [way.cut, way.reset]
            while not stop.is_set():
                await asyncio.sleep(0.06)
                cuts[0]()
                cuts.reverse()

        async with sink(f"nats://127.0.0.1:{way.port}", window=1_000) as target:
            chaos = asyncio.create_task(cutting())
            for start in range(0, 30_000, 3_000):
                await write_as_pipeline(target, batch(events(3_000, start=start)))
            stop.set()
            await chaos
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == list(range(30_000))


@BOTH
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_n06_server_gone_and_back_while_writing(nats: Nats, batched: bool, how: str) -> None:
    total = 40_000

    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=batched)
        loop = asyncio.get_running_loop()

        async def restarting() -> None:
            for least in (5_000, 15_000):

                async def enough(least: int = least) -> bool:
                    return await count(nats.url) >= least

                await until(enough)
                await loop.run_in_executor(None, getattr(nats, how))
                await asyncio.sleep(0.2)
                await loop.run_in_executor(None, nats.start)

        async with sink(nats.url) as target:
            chaos = asyncio.create_task(restarting())
            failures = 0
            for start in range(0, total, 2_000):
                failures += await write_as_pipeline(target, batch(events(2_000, start=start)))
                await asyncio.sleep(0.01)
            await chaos
            assert failures > 0
        return await stored(nats.url)

    lost_none_and_in_order(asyncio.run(run()), total)


@BOTH
def test_k00_server_away_for_a_while_with_an_idle_sink(nats: Nats, batched: bool) -> None:
    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=batched)
        async with sink(nats.url) as target:
            await target.write(batch(events(10)))
            nats.stop()
            for _ in range(3):
                with pytest.raises(TransientError):
                    await target.write(batch(events(10, start=10)))
            nats.start()
            await write_as_pipeline(target, batch(events(10, start=10)))
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == list(range(20))


@BOTH
def test_n05_k01_a_full_stream_holds_the_pipeline_up_and_loses_nothing(
    nats: Nats, batched: bool
) -> None:
    """A large message is refused while small ones behind it would still fit."""
    sent = [*events(8), *events(1, start=8, keys=1, note="x" * 3_000), *events(6, start=9, keys=1)]

    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=batched, max_bytes=4_500, discard="new")
        async with sink(nats.url) as target, client(nats.url) as connection:
            for _ in range(3):
                with pytest.raises(TransientError, match="10077"):
                    await target.write(batch(sent))
            before = await stored(nats.url)
            config = (await api(connection, "STREAM.INFO.orders"))["config"]
            await api(connection, "STREAM.UPDATE.orders", {**config, "max_bytes": -1})
            await target.write(batch(sent))
        assert before.numbers[:8] == list(range(8))
        assert len(before.numbers) <= (8 if batched else 14)
        return await stored(nats.url)

    got = asyncio.run(run())
    assert set(got.numbers) == set(range(15))
    assert got.numbers[-7:] == list(range(8, 15)), "whatever overtook stands behind once more"
    assert got.last_of_each_key()[0] == 14
    if batched:
        assert got.numbers == list(range(15)), "fast ingest lets nothing overtake"
    else:
        assert len(got.ids) == len(set(got.ids))


@BOTH
def test_n05_room_that_comes_back_is_used(nats: Nats, batched: bool) -> None:
    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=batched, max_msgs=700, discard="new")
        async with sink(nats.url) as target, client(nats.url) as connection:
            with pytest.raises(TransientError, match="10077"):
                await target.write(batch(events(1_000)))
            config = (await api(connection, "STREAM.INFO.orders"))["config"]
            await api(connection, "STREAM.UPDATE.orders", {**config, "max_msgs": -1})
            await target.write(batch(events(1_000)))
            await target.write(batch(events(100, start=1_000)))
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == list(range(1_100))


@BOTH
@pytest.mark.parametrize(
    ("limits", "error", "mend"),
    [
        (
            "accounts { A { jetstream { max_file: 100000 }, users: [{ user: a, password: a }] } }",
            "resource limits exceeded for account",
            "raise the account's JetStream limits",
        ),
        (
            "jetstream { max_file_store: 100000 }",
            "insufficient resources",
            "give the server room",
        ),
    ],
    ids=["account", "server"],
)
def test_n05_storage_full_holds_the_pipeline_up_and_heals(
    configured: Callable[[str], Nats], batched: bool, limits: str, error: str, mend: str
) -> None:
    url = configured(limits).url.replace("//", "//a:a@" if "accounts" in limits else "//")

    async def run() -> Stored:
        await make_stream(url, allow_batched=batched)
        async with sink(url) as target, client(url) as connection:
            sent = batch(events(600, note="x" * 200))
            with pytest.raises(TransientError, match=error) as caught:
                await target.write(sent)
            assert mend in str(caught.value)
            stuck = (await stored(url)).numbers
            assert stuck == list(range(len(stuck)))
            await api(connection, "STREAM.PURGE.orders")
            await write_as_pipeline(target, batch(sent.events[len(stuck) : len(stuck) + 50]))
        return await stored(url)

    numbers = asyncio.run(run()).numbers
    assert numbers == list(range(numbers[0], numbers[0] + 50))


def test_fast_ingest_switched_off_while_running(nats: Nats) -> None:
    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=True)
        async with sink(nats.url) as target, client(nats.url) as connection:
            await target.write(batch(events(10)))
            config = (await api(connection, "STREAM.INFO.orders"))["config"]
            answer = await api(
                connection, "STREAM.UPDATE.orders", {**config, "allow_batched": False}
            )
            assert "error" not in answer
            await target.write(batch(events(1_000, start=10)))
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == list(range(1_010))


def test_n06_the_next_server_is_taken_when_one_goes_away(
    nats: Nats, proxy: Callable[[int], Proxy]
) -> None:
    async def run() -> Stored:
        one, two = proxy(nats.port), proxy(nats.port)
        async with sink(f"nats://127.0.0.1:{one.port},nats://127.0.0.1:{two.port}") as target:
            await target.write(batch(events(10)))
            one.refuse()
            one.cut()
            await target.write(batch(events(10, start=10)))
            assert (one.connections, two.connections) == (0, 1)
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == list(range(20))
