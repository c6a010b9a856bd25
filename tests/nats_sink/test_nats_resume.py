"""What the stream has got is read back from it, so that a replay is not stored twice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

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
from tailrace.errors import ConfigError, RejectedError, TransientError
from tailrace.event import Batch, Event, Position
from tailrace_demo.servers import Nats
from tailrace_nats import newest
from tailrace_nats.sink import NatsSink

WINDOW = 0.1
SHORT: dict[str, Any] = {"duplicate_window": 100_000_000}
WAYS: dict[str, dict[str, Any]] = {
    "fast": {},
    "pubacks": {"allow_batched": "false"},
    "atomic": {"atomic": "true"},
}


def made_for(keys: dict[str, Any]) -> dict[str, Any]:
    """The settings of a stream for one of the ways, with a short window."""
    return {"allow_batched": keys != WAYS["pubacks"], "allow_atomic": True, **SHORT}


EVERY_WAY = pytest.mark.parametrize("keys", WAYS.values(), ids=WAYS)


@asynccontextmanager
async def started(url: str, *, most: int = 5_000, **keys: Any) -> AsyncIterator[NatsSink]:
    """A sink as after a restart: it has been asked for its position. `most` events a batch."""
    target = sink(url, **keys)
    target.setup = replace(target.setup, batch_events=most)
    async with target:
        await target.position()
        yield target


async def position(url: str, *, source: str = "pg:1", most: int = 5_000, **keys: Any) -> str | None:
    """What a sink that starts now finds."""
    target = sink(url, **keys)
    target.source = source
    target.setup = replace(target.setup, batch_events=most)
    async with target:
        return await target.position()


async def cut_off(url: str, sent: Batch, at: int, **keys: Any) -> None:
    """Write a batch, and die in the midst of it, `at` bytes on."""
    async with (
        DeafProxy(int(url.rpartition(":")[2])) as way,
        sink(f"nats://127.0.0.1:{way.port}", **keys) as target,
    ):
        way.refuse()
        way.allowance = at
        writing = asyncio.create_task(target.write(sent))

        async def used_up() -> bool:
            return way.allowance is None

        await until(used_up)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


def at(of: list[Event], where: str) -> Batch:
    return Batch(of, Position(where))


@EVERY_WAY
def test_the_position_of_the_last_batch_is_found(nats: Nats, keys: dict[str, Any]) -> None:
    async def run() -> list[str | None]:
        found = [await position(nats.url, **keys)]
        async with started(nats.url, **keys) as target:
            await target.write(at(events(3), "0/A"))
            await target.write(at(events(1_200, start=3), "0/B:7"))
        found += [await position(nats.url, **keys)]
        found += [await position(nats.url, source="pg:2", **keys)]
        found += [await position(nats.url, name="other", stream="orders", **keys)]
        return found

    assert asyncio.run(run()) == [None, "0/B:7", None, None]


def test_names_and_positions_are_escaped(nats: Nats) -> None:
    name, source, where = "my.pipe", "my\r\nsql: é", "{'file': 'a b', '%': 1}\n"

    async def run() -> str | None:
        async with sink(nats.url, name=name) as target:
            target.source = source
            sent = [replace(e, id=f"{source}:{e.id}") for e in events(2)]
            await target.write(at(sent, where))
        return await position(nats.url, name=name, source=source)

    assert asyncio.run(run()) == where


@EVERY_WAY
def test_n03_a_replay_after_the_window_is_not_stored_twice(
    nats: Nats, keys: dict[str, Any]
) -> None:
    """Whatever the checkpoint says: here it is a thousand events back, and cut elsewhere."""

    async def run() -> Stored:
        await make_stream(
            nats.url, allow_batched=keys != WAYS["pubacks"], allow_atomic=True, **SHORT
        )
        async with started(nats.url, **keys) as target:
            await target.write(at(events(1_000), "0/A"))
        await asyncio.sleep(2 * WINDOW)
        async with started(nats.url, **keys) as target:
            await target.write(at(events(700), "0/7"))
            await target.write(at(events(500, start=700), "0/B"))
            await target.write(at(events(10, start=1_200), "0/C"))
        return await stored(nats.url)

    got = asyncio.run(run())
    assert got.numbers == list(range(1_210))
    assert len(got.ids) == len(set(got.ids))


@EVERY_WAY
@pytest.mark.parametrize("bytes_on", [50_000, 250_000, 520_000])
def test_n03_of_a_batch_that_broke_off_the_rest_is_stored(
    nats: Nats, keys: dict[str, Any], bytes_on: int
) -> None:
    async def run() -> Stored:
        await make_stream(
            nats.url, allow_batched=keys != WAYS["pubacks"], allow_atomic=True, **SHORT
        )
        await cut_off(nats.url, at(events(1_200), "0/A"), bytes_on, **keys)
        await asyncio.sleep(2 * WINDOW)
        assert await position(nats.url, **keys) is None
        async with started(nats.url, **keys) as target:
            await target.write(at(events(1_500), "0/B"))
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == list(range(1_500))


@EVERY_WAY
def test_n02_a_lost_acknowledgement_and_an_outage_longer_than_the_window(
    nats: Nats, keys: dict[str, Any]
) -> None:
    """The pipeline lives on; the stream has forgotten the ids when it sends again."""

    async def run() -> Stored:
        await make_stream(
            nats.url, allow_batched=keys != WAYS["pubacks"], allow_atomic=True, **SHORT
        )
        async with (
            DeafProxy(nats.port) as way,
            sink(f"nats://127.0.0.1:{way.port}", window=5_000, **keys) as target,
        ):
            await target.write(at(events(5), "0/A"))
            way.deaf = True
            writing = asyncio.create_task(
                write_as_pipeline(target, at(events(400, start=5), "0/B"))
            )

            async def arrived() -> bool:
                return await count(nats.url) >= 404

            await until(arrived)
            await asyncio.sleep(2 * WINDOW)
            way.deaf = False
            way.cut()
            await asyncio.wait_for(writing, 30)
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == list(range(405))


def test_the_stamp_is_not_stored_before_what_it_vouches_for(nats: Nats) -> None:
    """One acknowledgement a message: a large one is refused where a small one still fits."""
    sent = [*events(8), *events(1, start=8, note="x" * 3_000), *events(3, start=9)]

    async def run() -> tuple[str | None, str | None, Stored]:
        await make_stream(nats.url, max_bytes=6_500, discard="new")
        async with started(nats.url) as target:
            with pytest.raises(TransientError, match="10077"):
                await target.write(at(sent, "0/A"))
        assert (await stored(nats.url)).numbers[8:] == [9, 10], "the last one would fit, too"
        early = await position(nats.url)
        async with client(nats.url) as connection:
            config = (await api(connection, "STREAM.INFO.orders"))["config"]
            await api(connection, "STREAM.UPDATE.orders", {**config, "max_bytes": -1})
        async with started(nats.url) as target:
            await target.write(at(sent, "0/A"))
        return early, await position(nats.url), await stored(nats.url)

    early, late, got = asyncio.run(run())
    assert (early, late) == (None, "0/A")
    assert set(got.numbers) == set(range(12))


def test_k01_what_had_overtaken_before_a_crash_stands_behind_once_more(nats: Nats) -> None:
    """The stream has 1 and 3 of one key, not 2; the pipeline that knew of it is gone."""
    sent = events(4, keys=1)

    async def run() -> Stored:
        await make_stream(nats.url, **SHORT)
        async with sink(nats.url) as target:
            target.source = "another's"
            await target.write(batch([sent[0], sent[2]]))
        async with started(nats.url) as target:
            await target.write(batch(sent))
        return await stored(nats.url)

    got = asyncio.run(run())
    assert got.numbers == [0, 2, 1, 2, 3]
    assert len(got.ids) == len(set(got.ids))


def test_a_stream_that_keeps_the_last_of_each_subject_ends_with_the_newest(nats: Nats) -> None:
    """What a replay brings of the others stands there no more, and must not come last."""
    sent = [*events(3, of=table("a")), *events(3, start=3, of=table("b"))]

    async def run() -> Stored:
        await make_stream(nats.url, max_msgs_per_subject=1, **SHORT)
        async with started(nats.url) as target:
            await target.write(at(sent, "0/A"))
        await asyncio.sleep(2 * WINDOW)
        async with started(nats.url) as target:
            await target.write(at(sent, "0/A"))
        return await stored(nats.url)

    assert asyncio.run(run()).numbers == [2, 5]


def test_backfilled_rows_are_left_out_wherever_they_come_again(nats: Nats) -> None:
    changes = events(20)
    rows = [
        Event(f"pg:1:0/1:r:{n}", "r", e.table, e.change, e.transaction)
        for n, e in enumerate(events(5))
    ]

    async def run() -> Stored:
        await make_stream(nats.url, **SHORT)
        async with started(nats.url) as target:
            await target.write(at([*changes[:3], *rows], "0/A"))
        await asyncio.sleep(2 * WINDOW)
        async with started(nats.url) as target:
            await target.write(at(changes[3:9], "0/B"))
            await target.write(at([*changes[9:12], *rows, *changes[12:]], "0/C"))
        return await stored(nats.url)

    got = asyncio.run(run())
    assert got.ids == [e.id for e in [*changes[:3], *rows, *changes[3:]]]


def test_an_event_that_was_rejected_comes_again_when_it_fits(nats: Nats) -> None:
    sent = [*events(3), *events(1, start=3, note="x" * 5_000), *events(2, start=4)]

    async def run() -> tuple[str | None, Stored]:
        await make_stream(nats.url, max_msg_size=2_000, allow_batched=True)
        async with started(nats.url) as target:
            await target.write(at(sent[:2], "0/A"))
            with pytest.raises(RejectedError, match="orders takes less"):
                await target.write(at(sent[2:], "0/B"))
        found = await position(nats.url)
        async with client(nats.url) as connection:
            config = (await api(connection, "STREAM.INFO.orders"))["config"]
            await api(connection, "STREAM.UPDATE.orders", {**config, "max_msg_size": -1})
        async with started(nats.url) as target:
            await target.write(at(sent[2:], "0/B"))
        return found, await stored(nats.url)

    found, got = asyncio.run(run())
    assert found == "0/A", "no stamp vouches for a batch of which one was rejected"
    assert got.numbers == [0, 1, 2, 4, 5, 3, 4, 5]


def test_a_stamp_that_makes_the_last_message_too_large_is_left_off(nats: Nats) -> None:
    sent = events(2)

    async def run() -> tuple[str | None, Stored]:
        async with sink(nats.url) as target:
            await target.write(at(sent[:1], "0/A"))
        size = (await stored(nats.url)).messages[0]
        headers = sum(len(f"{k}: {v}\r\n") for k, v in (size.headers or {}).items())
        tight = len("NATS/1.0\r\n\r\n") + headers + len(size.data) - 5
        async with client(nats.url) as connection:
            config = (await api(connection, "STREAM.INFO.orders"))["config"]
            await api(connection, "STREAM.UPDATE.orders", {**config, "max_msg_size": tight})
        async with sink(nats.url) as target:
            await target.write(at(sent[1:], "0/B"))
        return await position(nats.url), await stored(nats.url)

    found, got = asyncio.run(run())
    assert found == "0/A"
    assert got.numbers == [0, 1]


def test_the_messages_of_other_pipelines_stand_in_between(
    nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near enough it is found; beyond that there is none, and the checkpoint counts."""
    monkeypatch.setattr(newest, "FAR", 80)

    async def others(total: int, start: int) -> None:
        async with sink(nats.url, name="theirs", stream="orders") as target:
            await target.write(at(events(total, start=100 + start), "0/F"))

    async def run() -> list[str | None]:
        async with started(nats.url) as target:
            await target.write(at(events(30), "0/A"))
        found = []
        for start in (0, 50, 100):
            await others(50, start)
            found.append(await position(nats.url, most=10))
        return found

    assert asyncio.run(run()) == ["0/A", None, None]


def test_only_the_subjects_of_the_sink_are_read(
    nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others under subjects of their own may be as many as they like."""
    monkeypatch.setattr(newest, "FAR", 80)

    async def run() -> str | None:
        await make_stream(nats.url, subjects=["cdc.>", "logs.>"], allow_batched=True)
        async with started(nats.url) as target:
            await target.write(at(events(30), "0/A"))
        async with sink(nats.url, name="logs", stream="orders", subject="logs.{table}") as noise:
            for start in range(0, 4_000, 1_000):
                await noise.write(batch(events(1_000, start=100 + start)))
        return await position(nats.url, most=10)

    assert asyncio.run(run()) == "0/A"


def test_a_stream_that_was_purged_or_trimmed_promises_less(nats: Nats) -> None:
    async def run() -> list[str | None]:
        await make_stream(nats.url, max_msgs=4, allow_batched=True)
        async with started(nats.url) as target:
            await target.write(at(events(10), "0/A"))
            await target.write(at(events(10, start=10), "0/B"))
        found = [await position(nats.url)]
        async with client(nats.url) as connection:
            await api(connection, "STREAM.PURGE.orders")
        found.append(await position(nats.url))
        async with started(nats.url) as target:
            await target.write(at(events(2, start=20), "0/C"))
        return [*found, await position(nats.url)]

    assert asyncio.run(run()) == ["0/B", None, "0/C"]


def test_what_is_known_is_forgotten_after_as_many_new_events(nats: Nats) -> None:
    async def run() -> list[bool]:
        async with started(nats.url) as target:
            await target.write(at(events(30), "0/A"))
        kept = []
        async with started(nats.url, most=10) as target:
            for start in (10, 20, 30, 40, 50):
                await target.write(at(events(10, start=start), "0/B"))
                kept.append(target._known is not None)
        return kept

    assert asyncio.run(run()) == [True, True, True, False, False]


def test_no_consumer_is_left_behind(nats: Nats) -> None:
    async def run() -> int:
        async with started(nats.url) as target:
            await target.write(at(events(30), "0/A"))
        await position(nats.url)
        async with client(nats.url) as connection:
            answer = await api(connection, "STREAM.INFO.orders")
            return int(answer["state"]["consumer_count"])

    assert asyncio.run(run()) == 0


@pytest.mark.parametrize("retention", ["workqueue", "interest"])
def test_a_stream_that_forgets_what_is_consumed_is_not_read(
    nats: Nats, caplog: pytest.LogCaptureFixture, retention: str
) -> None:
    """A consumer of ours would take messages away, or keep them."""
    caplog.set_level(logging.INFO)

    async def run() -> str | None:
        await make_stream(nats.url, retention=retention)
        async with started(nats.url) as target:
            await target.write(at(events(3), "0/A"))
        return await position(nats.url)

    assert asyncio.run(run()) is None
    assert "stream orders forgets what is consumed" in caplog.text


def test_reading_back_can_be_switched_off(nats: Nats) -> None:
    """Then old stamps do not count, and new ones are still written."""

    async def run() -> list[str | None]:
        off: dict[str, Any] = {"resume": "false"}
        async with started(nats.url, **off) as target:
            await target.write(at(events(3), "0/A"))
        return [await position(nats.url, **off), await position(nats.url)]

    assert asyncio.run(run()) == [None, "0/A"]


def test_core_mode_stores_no_position(nats: Nats) -> None:
    assert asyncio.run(position(nats.url, mode="core")) is None


def test_a_missing_permission_names_what_to_grant(configured: Callable[[str], Nats]) -> None:
    server = configured(
        "authorization { users: [{ user: a, password: a, permissions: {"
        'publish: ["$JS.API.STREAM.>", "cdc.>"] } }] }'
    )
    url = server.url.replace("//", "//a:a@")

    async def run() -> str:
        async with started(url, resume="false") as target:
            await target.write(at(events(3), "0/A"))
        with pytest.raises(ConfigError) as caught:
            await asyncio.wait_for(position(url), 20)
        return str(caught.value)

    told = asyncio.run(run())
    assert "permissions violation for publish" in told
    assert "$JS.API.CONSUMER.CREATE.NAME.>" in told
    assert "sink.resume=false" in told


def test_a_limit_on_consumers_is_named(nats: Nats) -> None:
    async def run() -> str:
        await make_stream(nats.url, max_consumers=1)
        async with client(nats.url) as connection:
            config = {"name": "only", "ack_policy": "none"}
            wanted = {"stream_name": "orders", "config": config, "action": "create"}
            await api(connection, "CONSUMER.CREATE.orders.only", wanted)
            await connection.publish("cdc.a", b"{}")
        with pytest.raises(ConfigError) as caught:
            await position(nats.url)
        return str(caught.value)

    told = asyncio.run(run())
    assert "sink.resume: the end of stream orders cannot be read" in told
    assert "sink.resume=false" in told
