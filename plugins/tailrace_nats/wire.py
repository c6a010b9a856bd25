"""All that is used of nats-py's inside, in one place. Checked on nats-py 2.10 to 2.16.

nats-py connects, authenticates and subscribes. Its way of publishing and of taking a message
costs five to ten times what the rest of the sink does, so batches go past the first and
acknowledgements past the second. ``tests/nats_sink/test_wire.py`` fails where the inside has
changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from nats.aio.client import Client
from nats.errors import SecureConnWantedError
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

Answer = tuple[bytes, bytes]
"""What follows the inbox in an answer's subject, and its body; no body: nobody was there."""

Listener = Callable[[Sequence[Answer]], None]


class Wire:
    """The client's connection to the server, as a stream of bytes."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def write(self, data: bytes) -> None:
        """Send whole frames. Returns when there is room for more, not when they have arrived."""
        transport: Any = self._client._transport
        transport.write(data)
        await transport.drain()

    def about(self, name: str) -> Any:
        """asyncio's extra information on the transport: ``peername``, ``ssl_object``."""
        writer = getattr(self._client._transport, "_io_writer", None)
        return writer.get_extra_info(name) if writer is not None else None

    def abort(self) -> None:
        """Close the socket now, and drop what has not been sent."""
        writer = getattr(self._client._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    def listen(self, inbox: str, listener: Listener) -> None:
        """Hand all answers that arrive in one piece to `listener`, many at a time."""
        self._client._ps = AnswerParser(self._client, inbox, listener)


class SecureClient(Client):
    """Refuses to send credentials in the clear where TLS is wanted.

    nats-py goes on without TLS if the server, or somebody in between, says that it has none.
    """

    tls_wanted = False

    @property
    def certificate_wanted(self) -> bool:
        """Whether the server asks who we are by a certificate."""
        return bool(self._server_info.get("tls_verify"))

    def _connect_command(self) -> bytes:
        writer = getattr(self._transport, "_io_writer", None)
        if self.tls_wanted and (writer is None or writer.get_extra_info("ssl_object") is None):
            raise SecureConnWantedError
        command: bytes = super()._connect_command()
        return command


class AnswerParser(Parser):
    """nats-py's parser with a short way for messages to our own inbox.

    Everything else, and an answer that stands behind something else, goes nats-py's way and
    reaches the subscription's callback.
    """

    def __init__(self, client: Client, inbox: str, listener: Listener) -> None:
        super().__init__(client)
        start = rb"MSG %b\." % re.escape(inbox.encode())
        frame = rb"%b%b \d+ \d+\r\n%b\r\n"
        self._start = f"MSG {inbox}.".encode()
        self._run = re.compile(rb"(?:%b)+" % (frame % (start, rb"\S+", rb"\{[^\r\n]*\}")))
        self._frame = re.compile(frame % (start, rb"(\S+)", rb"(\{[^\r\n]*\})"))
        self._empty = re.compile(rb"%b\S+ \d+ 0\r\n" % start)
        self._listener = listener

    async def parse(self, data: bytes = b"") -> None:
        if self.state == AWAITING_CONTROL_LINE:
            data = bytes(self.buf) + data
            self.buf.clear()
            data = self._take(data)
            if self._may_go_on(data):
                self.buf.extend(data)
                return
        if data:
            await super().parse(data)

    def _may_go_on(self, data: bytes) -> bool:
        """Whether `data` is the beginning of an answer."""
        begun = data.startswith(self._start) and len(data) < len(self._start) + 1_000
        return begun and not self._empty.match(data)

    def _take(self, data: bytes) -> bytes:
        run = self._run.match(data)
        if run is None:
            return data
        self._listener(self._frame.findall(data, 0, run.end()))
        return data[run.end() :]
