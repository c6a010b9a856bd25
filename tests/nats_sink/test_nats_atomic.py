"""``sink.atomic``: of a transaction the stream has all or nothing, whatever breaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import accumulate, groupby
from typing import Any

import nats as nats_client
import pytest
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

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
    table,
    until,
    write_as_pipeline,
)
from servers.proxy import Proxy
from tailrace.errors import ConfigError, RejectedError, TransientError
from tailrace.event import Event, Position, Transaction
from tailrace_demo.servers import Nats
from tailrace_nats.sink import NatsSink

ID, COMMIT = "Nats-Batch-Id", "Nats-Batch-Commit"


def transactions(*sizes: int, start: int = 0, note: str = "") -> list[Event]:
    """One transaction of each size; ``after["n"]`` counts on from `start`."""
    made: list[Event] = []
    for size in sizes:
        n = start + len(made)
        made += events(size, start=n, per_transaction=n + size, note=note)
        commit = Transaction(Position(f"0/{n:X}"), 1_700_000_000_000_000 + n, str(n))
        for i, event in enumerate(made[-size:], len(made) - size):
            made[i] = Event(
                f"pg:1:0/{n:X}:{i}", event.op, event.table, event.change, commit, event.context
            )
    return made


def batches(got: Stored) -> list[tuple[str | None, int]]:
    """The batches that the stream's messages came in, and how many they hold; None without."""
    return [
        (id, len(list(messages)))
        for id, messages in groupby(got.messages, lambda m: (m.headers or {}).get(ID))
    ]


def whole(got: Stored, sizes: Sequence[int]) -> None:
    """Everything is there once and in order, and each transaction is in one batch."""
    assert got.numbers == list(range(sum(sizes)))
    at = 0
    for size in sizes:
        headers = [message.headers or {} for message in got.messages[at : at + min(size, 1_000)]]
        assert len({header.get(ID) for header in headers}) == 1
        at += size


async def write(url: str, *of: list[Event], **keys: Any) -> Stored:
    async with sink(url, **{"atomic": "true", **keys}) as target:
        for one in of:
            await target.write(batch(one))
    return await stored(url)


def test_a_transaction_is_an_atomic_batch(nats: Nats) -> None:
    got = asyncio.run(write(nats.url, transactions(5), transactions(3, start=5)))
    whole(got, [5, 3])
    assert [size for _, size in batches(got)] == [5, 3]
    assert len({id for id, _ in batches(got)}) == 2
    assert [n for n, m in enumerate(got.messages) if COMMIT in (m.headers or {})] == [4, 7]


def test_transactions_that_wait_share_a_batch_as_far_as_they_fit_whole(nats: Nats) -> None:
    sizes = [400, 300, 1, 300, 2, 999, 1, 5]
    got = asyncio.run(write(nats.url, transactions(*sizes)))
    whole(got, sizes)
    assert [size for _, size in batches(got)] == [701, 302, 1_000, 5]


def test_a_transaction_over_the_limit_is_cut_at_it(nats: Nats) -> None:
    sizes = [10, 2_500, 10]
    got = asyncio.run(write(nats.url, transactions(*sizes)))
    assert got.numbers == list(range(2_520))
    assert [size for _, size in batches(got)] == [10, 1_000, 1_000, 510]


@pytest.mark.parametrize("batched", ["true", "false"], ids=["fast", "pubacks"])
def test_transactions_of_one_event_need_no_batch(nats: Nats, batched: str) -> None:
    sent = transactions(*[1] * 1_500, 2, 1)
    got = asyncio.run(write(nats.url, sent, allow_batched=batched))
    whole(got, [*[1] * 1_500, 2, 1])
    [(none, plain), (some, rest)] = batches(got)
    assert (none, plain, rest) == (None, 1_000, 503)
    assert some


def test_the_servers_own_limit_is_met_and_kept(configured: Callable[[str], Nats]) -> None:
    url = configured("jetstream { limits { batch { max_msgs: 100 } } }").url
    sizes = [250, 60, 60]

    async def run() -> Stored:
        async with sink(url, atomic="true") as target:
            await target.write(batch(transactions(*sizes)))
            await target.write(batch(transactions(100, 1, start=370)))
        return await stored(url)

    got = asyncio.run(run())
    assert got.numbers == list(range(471))
    assert [size for _, size in batches(got)] == [100, 100, 50, 60, 60, 100, 1]


def test_backfilled_rows_come_in_pieces(nats: Nats) -> None:
    """A chunk's rows stand for themselves: a piece of 1,000 is as whole as all of them."""
    rows = [
        Event(e.id, "r", e.table, e.change, e.transaction)
        for e in events(2_300, per_transaction=10_000)
    ]
    got = asyncio.run(write(nats.url, rows))
    assert got.numbers == list(range(2_300))
    assert [size for _, size in batches(got)] == [1_000, 1_000, 300]


@pytest.mark.parametrize("already", [(0, 5), (4, 11), (0, 30), (29, 30), (12, 13)])
def test_10201_what_is_stored_does_not_sink_its_batch(nats: Nats, already: tuple[int, int]) -> None:
    """Stored before, by a sink that is not atomic; this one may not even read it back."""
    sizes = [3, 8, 1, 12, 6]
    sent = transactions(*sizes)

    async def run() -> Stored:
        await make_stream(nats.url, allow_atomic=True, allow_batched=True)
        async with sink(nats.url) as other:
            await other.write(batch(sent[slice(*already)]))
        return await write(nats.url, sent, transactions(4, start=30), resume="false")

    got = asyncio.run(run())
    assert len(got.ids) == len(set(got.ids))
    first = list(range(*already))
    assert got.numbers == first + [n for n in range(34) if n not in first]
    ids = {n: (m.headers or {}).get(ID) for n, m in zip(got.numbers, got.messages, strict=True)}
    for low, size in zip(accumulate(sizes, initial=0), sizes, strict=False):
        if size > 1 and not set(range(low, low + size)) & set(first):
            assert len({ids[n] for n in range(low, low + size)} - {None}) == 1


def test_10201_a_lost_acknowledgement_does_not_store_a_batch_twice(nats: Nats) -> None:
    async def run() -> Stored:
        async with (
            DeafProxy(nats.port) as way,
            sink(f"nats://127.0.0.1:{way.port}", atomic="true") as target,
        ):
            way.deaf = True
            writing = asyncio.create_task(target.write(batch(transactions(300, 1, 200))))

            async def there() -> bool:
                return await count(nats.url) == 501

            await until(there)
            way.deaf = False
            way.cut()
            await asyncio.wait_for(writing, 30)
            await target.write(batch(transactions(3, start=501)))
        return await stored(nats.url)

    whole(asyncio.run(run()), [300, 1, 200, 3])


def test_a_batch_that_breaks_off_is_never_seen(nats: Nats) -> None:
    """The connection dies at every 10th of the way; what the stream has is whole each time."""
    sizes = [70] * 10

    async def run() -> Stored:
        async with (
            DeafProxy(nats.port) as way,
            sink(f"nats://127.0.0.1:{way.port}", atomic="true") as target,
        ):
            for n in range(10):
                sent = transactions(*sizes, start=700 * n)
                way.allowance = 1_000 + 35_000 * n
                await write_as_pipeline(target, batch(sent))
                assert await count(nats.url) == 700 * (n + 1)
        return await stored(nats.url)

    whole(asyncio.run(run()), sizes * 10)


@asynccontextmanager
async def consuming(url: str) -> AsyncIterator[list[int]]:
    """The numbers that a consumer of the stream has got; the server may go away meanwhile."""
    seen: list[int] = []

    async def take(message: Msg) -> None:
        seen.append(json.loads(message.data)["after"]["n"])

    connection = await nats_client.connect(url, allow_reconnect=False)
    none = ConsumerConfig(ack_policy=AckPolicy.NONE)
    await connection.jetstream().subscribe("", stream="orders", cb=take, config=none)
    yield seen
    with suppress(Exception):
        await connection.close()


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_n06_a_server_that_is_killed_has_whole_transactions_only(
    nats: Nats, proxy: Callable[[int], Proxy], how: str
) -> None:
    """Looked at after each start, and no consumer has seen what is not there then."""
    size, total = 150, 4_500
    way = proxy(nats.port)

    async def write_all(target: NatsSink) -> None:
        for start in range(0, total, 3 * size):
            await write_as_pipeline(target, batch(transactions(size, size, size, start=start)))

    async def break_at(least: int) -> None:
        async with consuming(nats.url) as seen:

            async def enough() -> bool:
                return len(seen) >= least

            await until(enough)
            way.refuse()
            await asyncio.to_thread(getattr(nats, how))
        await asyncio.to_thread(nats.start)
        there = (await stored(nats.url)).numbers
        assert there == list(range(len(there)))
        assert len(there) % size == 0
        assert set(seen) <= set(there)
        way.accept()

    async def run() -> Stored:
        await make_stream(nats.url, allow_atomic=True)
        async with sink(f"nats://127.0.0.1:{way.port}", atomic="true") as target:
            writing = asyncio.create_task(write_all(target))
            for least in (1_000, 2_500):
                await break_at(least)
            await writing
        return await stored(nats.url)

    whole(asyncio.run(run()), [size] * (total // size))


def test_k02_a_message_too_large_is_left_out_of_its_transaction(nats: Nats) -> None:
    """By the limit that is known, and by one that the stream has got meanwhile."""
    sent = [
        *transactions(4),
        *transactions(1, start=4, note="x" * 5_000),
        *transactions(3, start=5),
    ]
    sent = [Event(e.id, e.op, e.table, e.change, sent[0].transaction) for e in sent]

    async def run() -> Stored:
        async with sink(nats.url, atomic="true") as target, client(nats.url) as connection:
            config = (await api(connection, "STREAM.INFO.orders"))["config"]
            await api(connection, "STREAM.UPDATE.orders", {**config, "max_msg_size": 2_000})
            with pytest.raises(RejectedError, match="10054") as caught:
                await target.write(batch(sent))
        assert [event for event, _ in caught.value.rejected] == [sent[4]]
        return await stored(nats.url)

    got = asyncio.run(run())
    assert got.numbers == [0, 1, 2, 3, 5, 6, 7]
    assert len(batches(got)) == 1


def test_n01_a_subject_that_the_stream_does_not_take_leaves_nothing_of_the_transaction(
    nats: Nats,
) -> None:
    """In the midst of a batch only the commit is answered, and does not say which subject."""

    async def run() -> str:
        await make_stream(nats.url, subjects=["cdc.*.*.orders"], allow_atomic=True)
        sent = transactions(9)
        other = sent[4]
        sent[4] = Event(other.id, "u", table("items"), other.change, other.transaction)
        async with sink(nats.url, atomic="true") as target:
            with pytest.raises(ConfigError) as caught:
                await target.write(batch(sent))
        return str(caught.value)

    assert "no subject of stream orders takes cdc.shop.public.items" in asyncio.run(run())
    assert asyncio.run(count(nats.url)) == 0


def test_n05_a_full_stream_takes_no_part_of_a_transaction(nats: Nats) -> None:
    sent = transactions(30, 40)

    async def run() -> Stored:
        await make_stream(nats.url, allow_atomic=True, max_msgs=50, discard="new")
        async with sink(nats.url, atomic="true") as target, client(nats.url) as connection:
            await target.write(batch(sent[:30]))
            for _ in range(2):
                with pytest.raises(TransientError, match="10077"):
                    await target.write(batch(sent[30:]))
                assert await count(nats.url) == 30
            config = (await api(connection, "STREAM.INFO.orders"))["config"]
            await api(connection, "STREAM.UPDATE.orders", {**config, "max_msgs": -1})
            await target.write(batch(sent[30:]))
        return await stored(nats.url)

    whole(asyncio.run(run()), [30, 40])


def test_too_many_open_batches_are_waited_for(configured: Callable[[str], Nats]) -> None:
    url = configured(
        "jetstream { limits { batch { max_inflight_per_stream: 2, timeout: 5s } } }"
    ).url

    async def run() -> Stored:
        async with sink(url, atomic="true") as target, client(url) as connection:
            for n in range(2):
                headers = {ID: f"of another {n}", "Nats-Batch-Sequence": "1"}
                await connection.publish("cdc.a", b"{}", headers=headers)
            await connection.flush()
            with pytest.raises(TransientError, match="too many inflight"):
                await target.write(batch(transactions(3)))
            await write_as_pipeline(target, batch(transactions(3)))
        return await stored(url)

    whole(asyncio.run(run()), [3])


async def _open(url: str, **keys: Any) -> None:
    async with sink(url, **keys):
        pass


def test_a_stream_without_atomic_batches_is_named_with_the_command(nats: Nats) -> None:
    asyncio.run(make_stream(nats.url))
    with pytest.raises(ConfigError, match="takes no atomic batches") as caught:
        asyncio.run(_open(nats.url, atomic="true"))
    assert "nats stream edit orders --allow-batch" in str(caught.value)


def test_atomic_batches_that_are_switched_off_while_running(nats: Nats) -> None:
    async def run() -> None:
        async with sink(nats.url, atomic="true") as target, client(nats.url) as connection:
            await target.write(batch(transactions(3)))
            config = (await api(connection, "STREAM.INFO.orders"))["config"]
            await api(connection, "STREAM.UPDATE.orders", {**config, "allow_atomic": False})
            with pytest.raises(ConfigError, match="takes no atomic batches"):
                await target.write(batch(transactions(3, start=3)))

    asyncio.run(run())
