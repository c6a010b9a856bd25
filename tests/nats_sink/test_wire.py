"""nats-py's inside is as `tailrace_nats.wire` takes it to be; these fail when it has changed."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport, Transport
from nats.protocol.parser import AWAITING_CONTROL_LINE, AWAITING_MSG_PAYLOAD, Parser

import jetstream
from tailrace_demo.servers import Nats
from tailrace_nats.wire import Answer, AnswerParser, Wire

OWN = [b'MSG _INBOX.a.%d 1 %d\r\n{"seq":%d}\r\n' % (n, 9, n) for n in range(1, 9)]
OTHERS = [
    b"PING\r\n",
    b"PONG\r\n",
    b"MSG other 2 5\r\nhello\r\n",
    b"MSG _INBOX.ab.1 3 2\r\n{}\r\n",
    b"MSG _INBOX.a.8 1 0\r\n\r\n",
    b"HMSG _INBOX.a.9 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
]


class Recorder:
    """Stands where the client stands for the parser."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    async def _process_ping(self) -> None:
        self.heard.append(b"PING")

    async def _process_pong(self) -> None:
        self.heard.append(b"PONG")

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        self.heard.append(bytes(subject) + b" " + data)

    def take(self, answers: Sequence[Answer]) -> None:
        self.heard += [b"_INBOX.a." + tail + b" " + body for tail, body in answers]


def test_what_is_used_is_there() -> None:
    assert AWAITING_CONTROL_LINE != AWAITING_MSG_PAYLOAD
    assert list(inspect.signature(Parser.parse).parameters) == ["self", "data"]
    parser = Parser()
    assert parser.state == AWAITING_CONTROL_LINE
    assert parser.buf == bytearray()
    client = Client()
    assert isinstance(client._ps, Parser)
    assert hasattr(client, "_transport")
    transport: Any = TcpTransport
    assert hasattr(transport(), "_io_writer")
    assert {"write", "drain"} <= vars(Transport).keys()
    assert list(inspect.signature(client._connect_command).parameters) == []
    assert client._server_info == {}


@settings(deadline=None, max_examples=200)
@given(
    frames=st.lists(st.sampled_from([*OWN, *OTHERS]), max_size=12),
    cuts=st.lists(st.integers(0, 500), max_size=6),
)
def test_the_short_way_hears_what_nats_py_hears(frames: list[bytes], cuts: list[int]) -> None:
    """However the bytes arrive; only the order between the two ways may differ."""
    data = b"".join(frames)
    places = sorted({0, len(data), *(c for c in cuts if c < len(data))})
    chunks = [data[a:b] for a, b in pairwise(places)]
    short, long = Recorder(), Recorder()

    async def run() -> None:
        parser, plain = AnswerParser(short, "_INBOX.a", short.take), Parser(long)  # type: ignore[arg-type]
        for chunk in chunks:
            await parser.parse(chunk)
            await plain.parse(chunk)

    asyncio.run(run())
    assert short.heard == long.heard


def test_answers_take_the_short_way_on_a_real_connection(nats: Nats) -> None:
    heard: list[Answer] = []
    slow: list[Msg] = []

    async def take(message: Msg) -> None:
        slow.append(message)

    async def run() -> None:
        async with jetstream.client(nats.url) as client:
            wire = Wire(client)
            wire.listen("_INBOX.x", heard.extend)
            await client.subscribe("_INBOX.x.>", cb=take)
            await client.flush()
            await wire.write(b"".join(b"PUB _INBOX.x.%d 2\r\n{}\r\n" % n for n in range(500)))
            await client.flush()

    asyncio.run(run())
    assert len(heard) + len(slow) == 500
    assert len(heard) > 400, "the parser of tailrace_nats.wire is not in use"


def test_aborting_ends_the_connection_at_once(nats: Nats) -> None:
    async def run() -> None:
        async with jetstream.client(nats.url, allow_reconnect=False) as client:
            Wire(client).abort()

            async def closed() -> bool:
                return client.is_closed

            await jetstream.until(closed)
            with pytest.raises(OSError):  # noqa: PT011 - any of them
                await Wire(client).write(b"PING\r\n")

    asyncio.run(run())
