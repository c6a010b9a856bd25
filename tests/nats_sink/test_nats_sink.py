"""The sink against a real server: what arrives, in which order, and in which way."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from jetstream import Stored, api, batch, client, count, events, make_stream, sink, stored, table
from tailrace.errors import RejectedError
from tailrace.event import Batch
from tailrace_demo.servers import Nats
from tailrace_nats import ingest as ingest_module
from tailrace_nats import pubacks as pubacks_module
from tailrace_nats.subjects import unescape

CERTS = Path(__file__).parent / "certs"


async def _write(url: str, *batches: Batch, **keys: Any) -> None:
    async with sink(url, **keys) as target:
        for one in batches:
            await target.write(one)


def test_headers_subject_and_body_of_an_event(nats: Nats) -> None:
    [event] = events(1, op="c")
    asyncio.run(_write(nats.url, batch([event])))
    [message] = asyncio.run(stored(nats.url)).messages
    assert message.subject == "cdc.shop.public.orders"
    assert message.headers == {
        "Nats-Msg-Id": "pg:1:0/0:0",
        "Tailrace-Table": "public.orders",
        "Tailrace-Op": "c",
        "Tailrace-Position": "0/0",
        "Tailrace-Time": "2023-11-14T22:13:20.000000Z",
        "Tailrace-Resume": "0/0",
        "Tailrace-Pipeline": "orders",
        "Tailrace-Source": "pg:1",
    }
    assert json.loads(message.data)["after"] == {"id": 0, "n": 0, "note": ""}


def test_the_stream_is_made_for_fast_ingest_and_deduplication(nats: Nats) -> None:
    async def config() -> dict[str, object]:
        await _write(nats.url, batch(events(1)), **{"dedupe.window": "30s"})
        async with client(nats.url) as connection:
            found = await api(connection, "STREAM.INFO.orders")
            return dict(found["config"])

    made = asyncio.run(config())
    assert made["subjects"] == ["cdc.>"]
    assert made["storage"] == "file"
    assert made["allow_batched"] is True
    assert made["duplicate_window"] == 30_000_000_000


@pytest.mark.parametrize("batched", [True, False], ids=["fast", "pubacks"])
def test_50_000_messages_are_stored_in_order(
    nats: Nats, batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways of publishing; where the stream has no fast ingest, the other is taken."""
    unused = pubacks_module.Window if batched else ingest_module.FastBatch

    async def must_not_run(*_: object) -> None:
        raise AssertionError("the other way was taken")

    monkeypatch.setattr(unused, "run", must_not_run)

    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=batched)
        sent = events(50_000)
        await _write(nats.url, *(batch(sent[i : i + 5_000]) for i in range(0, 50_000, 5_000)))
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == list(range(50_000))


@pytest.mark.parametrize("batched", [True, False], ids=["fast", "pubacks"])
@pytest.mark.parametrize("size", [1, 2, 3, 499, 500, 501, 1_000, 1_001])
def test_a_batch_of_any_size(nats: Nats, batched: bool, size: int) -> None:
    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=batched)
        await _write(nats.url, batch(events(size)), batch(events(1, start=size)), window=400)
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == list(range(size + 1))


@pytest.mark.parametrize("batched", [True, False], ids=["fast", "pubacks"])
def test_c02_a_batch_written_again_is_stored_once(nats: Nats, batched: bool) -> None:
    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=batched)
        await _write(nats.url, batch(events(1_200)))
        await _write(nats.url, batch(events(1_200)), batch(events(5, start=1_200)))
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == list(range(1_205))


def test_n08_hostile_names_arrive_as_one_token_each(nats: Nats) -> None:
    names = [
        "a.b",
        "*",
        ">",
        "größe",
        "a b",
        "%41",
        "x\r\nPUB evil 1\r\n",
        "\x00\x7f",
        "$JS",
        "-_9",
        "..",
        " ",
        "é" * 31 + "x",
    ]
    sent = [e for i, name in enumerate(names) for e in events(1, start=i, of=table(name, "s.x"))]
    asyncio.run(_write(nats.url, batch(sent)))
    messages = asyncio.run(stored(nats.url)).messages
    tokens = [message.subject.split(".") for message in messages]
    assert [[unescape(t) for t in found] for found in tokens] == [
        ["cdc", "shop", "s.x", name] for name in names
    ]
    labels = [unescape((m.headers or {})["Tailrace-Table"]) for m in messages]
    assert labels == [f"s.x.{name}" for name in names]


def test_a_table_without_a_schema_has_a_shorter_subject(nats: Nats) -> None:
    asyncio.run(_write(nats.url, batch(events(1, of=table("orders", schema=None)))))
    [message] = asyncio.run(stored(nats.url)).messages
    assert message.subject == "cdc.shop.orders"


@pytest.mark.parametrize("batched", [True, False], ids=["fast", "pubacks"])
@pytest.mark.parametrize("last", [False, True], ids=["middle", "end"])
def test_n04_k02_a_message_too_large_is_named_and_all_others_are_stored(
    nats: Nats, batched: bool, last: bool
) -> None:
    sent = events(600)
    place = 599 if last else 37
    sent[place : place + 1] = events(1, start=place, note="x" * 5_000)

    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=batched, max_msg_size=2_000)
        with pytest.raises(RejectedError, match="orders takes less") as caught:
            await _write(nats.url, batch(sent))
        assert [event for event, _ in caught.value.rejected] == [sent[place]]
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == [n for n in range(600) if n != place]


@pytest.mark.parametrize("batched", [True, False], ids=["fast", "pubacks"])
@pytest.mark.parametrize("place", [37, 599], ids=["middle", "end"])
def test_n04_10054_from_a_stream_that_was_changed_meanwhile(
    nats: Nats, batched: bool, place: int
) -> None:
    sent = events(600)
    sent[place] = events(1, start=place, note="x" * 5_000)[0]

    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=batched)
        async with sink(nats.url) as target, client(nats.url) as connection:
            config = (await api(connection, "STREAM.INFO.orders"))["config"]
            await api(connection, "STREAM.UPDATE.orders", {**config, "max_msg_size": 2_000})
            with pytest.raises(RejectedError, match="10054") as caught:
                await target.write(batch(sent))
            assert [event for event, _ in caught.value.rejected] == [sent[place]]
            await target.write(batch(events(3, start=600)))
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == [n for n in range(603) if n != place]


def test_n04_a_message_over_max_payload_is_found_before_it_is_sent(
    configured: Callable[[str], Nats],
) -> None:
    url = configured("max_payload: 10000").url
    sent = [*events(3), *events(1, start=3, note="x" * 20_000), *events(2, start=4)]
    with pytest.raises(RejectedError, match="max_payload") as caught:
        asyncio.run(_write(url, batch(sent)))
    assert [event for event, _ in caught.value.rejected] == [sent[3]]
    assert asyncio.run(stored(url)).numbers == [0, 1, 2, 4, 5]


def test_core_mode_reaches_a_subscriber_without_a_stream(nats: Nats) -> None:
    got = Stored()

    async def run() -> None:
        async with client(nats.url) as connection:

            async def take(message: Msg) -> None:
                got.messages.append(message)

            await connection.subscribe("cdc.>", cb=take)
            await connection.flush()
            await _write(nats.url, batch(events(1_500)), mode="core")
            await connection.flush()
            await connection.drain()

    asyncio.run(run())
    assert got.numbers == list(range(1_500))
    assert not any(message.reply for message in got.messages)
    assert asyncio.run(count(nats.url)) == -1


def test_close_leaves_no_task_and_works_twice_and_unopened(nats: Nats) -> None:
    async def run() -> set[asyncio.Task[object]]:
        unopened = sink(nats.url)
        await unopened.close()
        async with sink(nats.url) as target:
            await target.write(batch(events(10)))
        await target.close()
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(run()) == set()


@pytest.mark.parametrize("batched", [True, False], ids=["fast", "pubacks"])
def test_a_cancelled_write_does_not_break_the_next(nats: Nats, batched: bool) -> None:
    async def run() -> Stored:
        await make_stream(nats.url, allow_batched=batched)
        async with sink(nats.url, window=500) as target:
            for pause in (0, 0.001, 0.005, 0.02):
                task = asyncio.create_task(target.write(batch(events(5_000))))
                await asyncio.sleep(pause)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await target.write(batch(events(5_000)))
            await target.write(batch(events(5, start=5_000)))
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == list(range(5_005))


@pytest.mark.parametrize(
    "keys", [{}, {"allow_batched": "false"}, {"atomic": "true"}], ids=["fast", "pubacks", "atomic"]
)
def test_pipelines_that_write_to_one_stream_at_once_do_not_get_into_each_other(
    nats: Nats, keys: dict[str, Any]
) -> None:
    """Batches of two connections are told apart by their ids alone, whoever numbers them."""

    async def run() -> Stored:
        async with sink(nats.url, **keys) as one, sink(nats.url, **keys) as two:
            for start in range(0, 20_000, 4_000):
                await asyncio.gather(
                    one.write(batch(events(2_000, start=start))),
                    two.write(batch(events(2_000, start=start + 2_000))),
                )
        return await stored(nats.url)

    got = asyncio.run(run())
    assert sorted(got.numbers) == list(range(20_000))
    ids = Counter((message.headers or {}).get("Nats-Batch-Id") for message in got.messages)
    assert None in ids or max(ids.values()) <= 1_000
