"""What the NATS tests share: events, a sink as the pipeline has it, and what a stream holds."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import nats as nats_client
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from tailrace.connector import Setup
from tailrace.errors import TransientError
from tailrace.event import Batch, Event, Op, Position, Transaction
from tailrace.formats.json import JsonConfig, JsonFormat
from tailrace.row import Images
from tailrace.schema import Column, TableSchema
from tailrace_nats.config import NatsConfig
from tailrace_nats.sink import NatsSink

ORDERS = TableSchema("shop", "public", "orders", (Column("id", "int64", "bigint"),), ("id",))


def table(name: str, schema: str | None = "public", db: str = "shop") -> TableSchema:
    return TableSchema(db, schema, name, ORDERS.columns, ("id",))


def events(
    count: int,
    *,
    start: int = 0,
    of: TableSchema = ORDERS,
    op: Op = "u",
    keys: int = 7,
    per_transaction: int = 100,
    note: str = "",
) -> list[Event]:
    """`count` changes of `keys` rows; ``after["n"]`` counts on from `start`."""
    made = []
    for n in range(start, start + count):
        commit = n - n % per_transaction
        if n in (start, commit):
            ts = 1_700_000_000_000_000 + commit
            transaction = Transaction(Position(f"0/{commit:X}"), ts, str(commit))
        row = {"id": n % keys, "n": n, "note": note}
        change = Images(key={"id": n % keys}, after=row)
        made.append(Event(f"pg:1:0/{commit:X}:{n}", op, of, change, transaction))
    return made


def batch(of: Sequence[Event]) -> Batch:
    return Batch(list(of), of[-1].position)


def sink(url: str, *, name: str = "orders", **keys: Any) -> NatsSink:
    """A sink as the pipeline makes it; keys as a user writes them."""
    config = NatsConfig.model_validate({"url": url, **keys})
    form = JsonFormat(JsonConfig(), name=name, connector="postgres")
    made = NatsSink(config, Setup(name, "postgres"), form)
    made.source = "pg:1"
    return made


async def write_as_pipeline(target: NatsSink, of: Batch, *, patience: float = 30) -> int:
    """Write, again after each TransientError; how often it took more than once."""
    deadline = time.monotonic() + patience
    for failures in range(100_000):
        try:
            await target.write(of)
        except TransientError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        else:
            return failures
    raise AssertionError


async def until(condition: Callable[[], Awaitable[bool]], patience: float = 20) -> None:
    """Return when `condition` holds; fail if it does not within `patience` seconds."""
    deadline = time.monotonic() + patience
    while not await condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def client(url: str, **options: Any) -> AsyncIterator[Client]:
    """A plain nats-py connection, for looking at the server from the side."""
    connection = await nats_client.connect(url, **options)
    try:
        yield connection
    finally:
        await connection.close()


async def api(connection: Client, call: str, payload: object = None) -> dict[str, Any]:
    """JetStream's answer to ``STREAM.INFO.orders`` and the like."""
    body = b"" if payload is None else json.dumps(payload).encode()
    answer = await connection.request(f"$JS.API.{call}", body, timeout=5)
    found: dict[str, Any] = json.loads(answer.data)
    return found


async def make_stream(url: str, name: str = "orders", **config: object) -> None:
    """A file stream over ``cdc.>``, unless `config` says otherwise."""
    async with client(url) as connection:
        wanted = {"name": name, "subjects": ["cdc.>"], "storage": "file", **config}
        answer = await api(connection, f"STREAM.CREATE.{name}", wanted)
        assert "error" not in answer, answer


async def count(url: str, name: str = "orders") -> int:
    """How many messages the stream holds; -1 while there is no such stream."""
    async with client(url) as connection:
        answer = await api(connection, f"STREAM.INFO.{name}")
        return int(answer["state"]["messages"]) if "state" in answer else -1


@dataclass
class Stored:
    """What a stream or a subscriber has got, in order."""

    messages: list[Msg] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [(m.headers or {})["Nats-Msg-Id"] for m in self.messages]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(m.data)["after"] for m in self.messages]

    @property
    def numbers(self) -> list[int]:
        return [row["n"] for row in self.rows]

    def last_of_each_key(self) -> dict[int, int]:
        return {row["id"]: row["n"] for row in self.rows}


async def stored(url: str, name: str = "orders") -> Stored:
    """All that the stream holds, in its order."""
    async with client(url) as connection:
        answer = await api(connection, f"STREAM.INFO.{name}")
        total = answer["state"]["messages"]
        got = Stored()
        if not total:
            return got
        whole = asyncio.Event()

        async def take(message: Msg) -> None:
            got.messages.append(message)
            if len(got.messages) == total:
                whole.set()

        none = ConsumerConfig(ack_policy=AckPolicy.NONE)
        await connection.jetstream().subscribe("", stream=name, cb=take, config=none)
        await asyncio.wait_for(whole.wait(), 60)
        return got


class DeafProxy:
    """A way to a server on which what one side says is lost, but not what the other says.

    `deaf`: the client hears nothing. `allowance`: bytes from the client that still get through;
    when they are used up, the connections are cut as soon as the answers have come back.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.deaf = False
        self.allowance: int | None = None
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> DeafProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._server.close()
        await self._server.wait_closed()

    def refuse(self) -> None:
        """Take no more connections."""
        self._server.close()

    def cut(self) -> None:
        """Close every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, down: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        up, out = await asyncio.open_connection("127.0.0.1", self.upstream)
        self._writers += [back, out]
        await asyncio.gather(self._carry(down, out), self._carry(up, back, answers=True))

    async def _carry(
        self, source: asyncio.StreamReader, to: asyncio.StreamWriter, *, answers: bool = False
    ) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                if answers and self.deaf:
                    continue
                to.write(data if answers else self._allowed(data))
                await to.drain()
        to.close()

    def _allowed(self, data: bytes) -> bytes:
        if self.allowance is None:
            return data
        part = data[: self.allowance]
        self.allowance -= len(part)
        if not self.allowance and self._writers:
            asyncio.get_running_loop().call_later(0.05, self._cut_and_recover)
        return part

    def _cut_and_recover(self) -> None:
        self.allowance = None
        self.cut()
