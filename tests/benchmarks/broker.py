"""The NATS server from the side: what its streams hold. Synchronous; one connection a call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import nats
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

_Result = TypeVar("_Result")
_FETCH = 2_000
_UNACKNOWLEDGED = ConsumerConfig(ack_policy=AckPolicy.NONE)


class _Key(msgspec.Struct):
    id: int


class _Keyed(msgspec.Struct):
    key: _Key


def count(url: str, stream: str) -> int:
    """Messages in the stream; 0 where there is none."""

    async def ask(context: JetStreamContext) -> int:
        try:
            return (await context.stream_info(stream)).state.messages
        except NotFoundError:
            return 0

    return asyncio.run(_with(url, ask))


def delete(url: str, stream: str) -> None:
    """Delete the stream if it is there."""

    async def ask(context: JetStreamContext) -> None:
        try:
            await context.delete_stream(stream)
        except NotFoundError:
            return

    asyncio.run(_with(url, ask))


def keys(url: str, stream: str) -> set[int]:
    """The `id` in the key of every message of the stream."""

    async def ask(context: JetStreamContext) -> set[int]:
        left = (await context.stream_info(stream)).state.messages
        decode = msgspec.json.Decoder(_Keyed).decode
        found: set[int] = set()
        # Pulled: a server cuts off a subscriber that it pushes more to than it takes.
        reader = await context.pull_subscribe("", stream=stream, config=_UNACKNOWLEDGED)
        while left > 0:
            messages = await reader.fetch(min(left, _FETCH), timeout=60)
            found.update(decode(message.data).key.id for message in messages)
            left -= len(messages)
        return found

    return asyncio.run(_with(url, ask)) if count(url, stream) else set()


async def _with(url: str, ask: Callable[[JetStreamContext], Awaitable[_Result]]) -> _Result:
    connection: Any = await nats.connect(url)
    try:
        return await ask(connection.jetstream())
    finally:
        await connection.close()
