"""The stream's settings: made so, compared, and what an acknowledgement is worth."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from pydantic import ValidationError

from jetstream import api, batch, client, events, make_stream, sink, stored, table
from tailrace.errors import ConfigError
from tailrace_demo.servers import Nats
from tailrace_nats.config import NatsConfig
from tailrace_nats.settings import durability, to_make

NEW = (2, 15)


async def opened(url: str, **keys: Any) -> dict[str, Any]:
    """The stream's configuration after a start."""
    async with sink(url, **keys):
        pass
    async with client(url) as connection:
        found = await api(connection, "STREAM.INFO.orders")
        return dict(found["config"])


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [
        r.getMessage() for r in caplog.records if r.name == "tailrace.nats" and r.levelno == level
    ]


def test_a_new_stream_is_made_as_the_keys_say(nats: Nats, caplog: pytest.LogCaptureFixture) -> None:
    keys = {
        "storage": "memory",
        "max_age": "1h",
        "max_bytes": "1MiB",
        "dedupe.window": "30s",
        "allow_batched": "false",
        "allow_atomic": "true",
    }
    wanted = {
        "storage": "memory",
        "num_replicas": 1,
        "max_age": 3_600_000_000_000,
        "max_bytes": 1 << 20,
        "duplicate_window": 30_000_000_000,
        "allow_batched": False,
        "allow_atomic": True,
        "discard": "old",
        "retention": "limits",
    }
    made = asyncio.run(opened(nats.url, **keys))
    assert {key: made.get(key, False) for key in wanted} == wanted
    assert lines(caplog, logging.WARNING) == []


def test_atomic_makes_a_stream_that_takes_atomic_batches(nats: Nats) -> None:
    assert asyncio.run(opened(nats.url, atomic="true"))["allow_atomic"] is True


def test_the_window_is_not_longer_than_messages_are_kept(nats: Nats) -> None:
    made = asyncio.run(opened(nats.url, max_age="1m"))
    assert made["duplicate_window"] == made["max_age"] == 60_000_000_000


def test_an_older_server_is_not_asked_for_what_it_does_not_know() -> None:
    config = NatsConfig.model_validate({"atomic": "true"})
    assert {"allow_batched", "allow_atomic"} <= to_make(config, NEW).keys()
    assert "allow_batched" not in to_make(config, (2, 13))
    assert "allow_atomic" not in to_make(config, (2, 11))


def test_what_differs_is_said_setting_by_setting_and_left_alone(
    nats: Nats, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(make_stream(nats.url, max_age=7_200_000_000_000, max_bytes=4_096))
    keys = {
        "storage": "memory",
        "replicas": "3",
        "max_age": "90m",
        "max_bytes": "1MiB",
        "dedupe.window": "30s",
        "allow_batched": "true",
        "allow_atomic": "true",
    }
    before = asyncio.run(opened(nats.url))
    assert lines(caplog, logging.WARNING) == []
    assert asyncio.run(opened(nats.url, **keys)) == before
    said = lines(caplog, logging.WARNING)
    edit = "it is left so -> nats stream edit orders"
    assert said == [
        "stream orders has storage=file, not what sink.storage=memory says; it is left so ->"
        " it cannot be changed: take another stream (sink.stream)",
        f"stream orders has num_replicas=1, not what sink.replicas=3 says; {edit} --replicas=3",
        f"stream orders has max_age=2h, not what sink.max_age=90m says; {edit} --max-age=90m",
        f"stream orders has max_bytes=4096, not what sink.max_bytes=1048576 says;"
        f" {edit} --max-bytes=1048576",
        "stream orders has duplicate_window=2m, not what sink.dedupe.window=30s says;"
        f" {edit} --dupe-window=30s",
        "stream orders has allow_batched=false, not what sink.allow_batched=true says;"
        f" {edit} --allow-fast",
        "stream orders has allow_atomic=false, not what sink.allow_atomic=true says;"
        f" {edit} --allow-batch",
    ]


def test_what_is_not_said_is_not_compared(nats: Nats, caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(make_stream(nats.url, storage="memory", max_age=1_000_000_000))
    asyncio.run(opened(nats.url, storage="memory", max_age="1s"))
    assert lines(caplog, logging.WARNING) == []


def test_n07_what_an_acknowledgement_is_worth_is_said_once_at_the_start(
    nats: Nats, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def run() -> None:
        async with sink(nats.url) as target:
            await target.write(batch(events(1)))
            nats.restart()
            await target.write(batch(events(1, start=1)))

    asyncio.run(run())
    [said] = [line for line in lines(caplog, logging.INFO) if "acknowledged" in line]
    assert "in a file of one server" in said
    assert "sync_interval" in said
    assert "within 2m is dropped" in said


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"storage": "memory", "num_replicas": 1}, "in the memory of one server, and gone when"),
        ({"storage": "file", "num_replicas": 3}, "in files of most of its 3 servers"),
        ({"storage": "memory", "num_replicas": 3}, "in the memory of most of its 3 servers"),
        ({"storage": "file", "persist_mode": "async"}, "which writes it to a file soon"),
    ],
)
def test_n07_other_streams(config: dict[str, Any], expected: str) -> None:
    assert expected in durability({"name": "s", "duplicate_window": 0, **config})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"replicas": "3"}, "cannot be made: replicas > 1 not supported"),
        ({"max_bytes": "900PiB"}, "cannot be made: insufficient storage"),
    ],
)
def test_a_stream_that_cannot_be_made_says_why(
    nats: Nats, keys: dict[str, str], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        asyncio.run(opened(nats.url, **keys))
    assert "sink.replicas" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"atomic": "true", "mode": "core"}, "atomic needs mode=jetstream"),
        ({"atomic": "true", "allow_atomic": "false"}, "atomic needs allow_atomic"),
        ({"dedupe.window": "2h", "max_age": "1h"}, "dedupe.window cannot be longer than max_age"),
        ({"dedupe.window": "1ms"}, "dedupe.window"),
        ({"replicas": "6"}, "replicas"),
        ({"max_bytes": "0"}, "max_bytes"),
        ({"storage": "disk"}, "storage"),
        ({"subjects.*": {"public.users": "a b"}}, "a subject has no spaces"),
    ],
)
def test_settings_that_contradict_themselves(keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        NatsConfig.model_validate(keys)


def test_a_table_may_have_a_subject_of_its_own(nats: Nats) -> None:
    special = {"public.users": "STREAM.notifier", "public.gone": "STREAM.{table}"}
    own: dict[str, Any] = {"subjects.*": special}
    sent = [*events(1), *events(1, start=1, of=table("users")), *events(1, start=2)]

    async def run() -> list[str]:
        async with sink(nats.url, **own) as target:
            await target.write(batch(sent))
        return [message.subject for message in (await stored(nats.url)).messages]

    assert asyncio.run(run()) == [
        "cdc.shop.public.orders",
        "STREAM.notifier",
        "cdc.shop.public.orders",
    ]
    assert asyncio.run(opened(nats.url))["subjects"] == ["cdc.>", "STREAM.>"]


def test_n01_a_tables_own_subject_that_the_stream_does_not_take(nats: Nats) -> None:
    asyncio.run(make_stream(nats.url))
    own: dict[str, Any] = {"subjects.*": {"public.users": "STREAM.notifier"}}
    with pytest.raises(ConfigError) as caught:
        asyncio.run(opened(nats.url, **own))
    told = str(caught.value)
    assert "but events go to STREAM.notifier (sink.subjects.public.users)" in told
    assert "nats stream edit orders --subjects 'cdc.>,STREAM.notifier'" in told


def test_a_stream_that_takes_all_of_several_subjects_is_used(nats: Nats) -> None:
    asyncio.run(make_stream(nats.url, name="first", subjects=["cdc.>", "STREAM.*"]))
    own: dict[str, Any] = {"subjects.*": {"public.users": "STREAM.notifier"}}

    async def run() -> int:
        async with sink(nats.url, **own) as target:
            await target.write(batch(events(2, of=table("users"))))
        return len((await stored(nats.url, "first")).messages)

    assert asyncio.run(run()) == 2
