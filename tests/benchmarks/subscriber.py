"""Listens on core NATS and times it: ``python -m benchmarks.subscriber URL SUBJECT COUNT SKIP``.

Says `ready` once it listens; after COUNT messages, or ten seconds of silence, it prints as JSON
how late they were. Those whose `id` is not above SKIP are counted and not timed.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Iterable
from datetime import datetime

import msgspec
import nats
from nats.aio.msg import Msg

from benchmarks.results import Spread
from tailrace_demo.received import percentile

_SILENCE = 10.0
_NO_LIMIT = 1 << 31


class Row(msgspec.Struct):
    id: int
    at: datetime


class Event(msgspec.Struct):
    ts: datetime
    after: Row


class Heard(msgspec.Struct):
    received: int
    commit: Spread
    write: Spread


async def listen(url: str, subject: str, count: int) -> list[tuple[float, bytes]]:
    """When each message came, in seconds since 1970, and what it was."""
    heard: list[tuple[float, bytes]] = []
    news = asyncio.Event()

    async def take(message: Msg) -> None:
        heard.append((time.time(), message.data))
        if len(heard) in (1, count):
            news.set()

    connection = await nats.connect(url)
    try:
        await connection.subscribe(
            subject, cb=take, pending_msgs_limit=_NO_LIMIT, pending_bytes_limit=_NO_LIMIT
        )
        await connection.flush()
        print("ready", flush=True)
        await news.wait()
        while len(heard) < count and time.time() - heard[-1][0] < _SILENCE:
            await asyncio.sleep(0.1)
    finally:
        await connection.close()
    return heard


def summary(heard: Iterable[tuple[float, bytes]], skip: int) -> Heard:
    decode = msgspec.json.Decoder(Event).decode
    events = [(at, decode(body)) for at, body in heard]
    timed = [(at, event) for at, event in events if event.after.id > skip] or events
    return Heard(
        len({event.after.id for _, event in events}),
        spread([at - event.ts.timestamp() for at, event in timed]),
        spread([at - event.after.at.timestamp() for at, event in timed]),
    )


def spread(seconds: list[float]) -> Spread:
    return Spread(
        percentile(seconds, 0.5) * 1e3, percentile(seconds, 0.99) * 1e3, max(seconds) * 1e3
    )


def command(url: str, subject: str, *, count: int, skip: int) -> list[str]:
    words = (url, subject, str(count), str(skip))
    return [sys.executable, "-m", "benchmarks.subscriber", *words]


if __name__ == "__main__":
    gc.disable()  # our own pauses would be taken for the pipeline's
    url, subject, count, skip = sys.argv[1:]
    heard = asyncio.run(listen(url, subject, int(count)))
    print(msgspec.json.encode(summary(heard, int(skip))).decode())
