"""One life of a connection: made, used until it breaks, and thrown away.

nats-py's own reconnecting is switched off. It would replay what is in its buffer, while only the
sink knows what has been acknowledged and in which order the rest must follow.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

import msgspec
import nats.errors
from nats.aio.msg import Msg

from tailrace.errors import TailraceError
from tailrace_nats.answers import LostError
from tailrace_nats.config import NatsConfig, Server
from tailrace_nats.credentials import credentials
from tailrace_nats.errors import connecting, forbidden, text_of
from tailrace_nats.wire import Listener, SecureClient, Wire

log = logging.getLogger("tailrace.nats")

TakeHeaders = Callable[[Mapping[str, str]], None]

_PING = 10
_LOOK = 0.25
_CLOSING = 2.0


class Connection:
    """A connection to `server`. `fault` is what the server has said outside of any answer."""

    def __init__(self, server: Server, config: NatsConfig, context: ssl.SSLContext | None) -> None:
        self.server = server
        self.inbox = ""
        self.fault: TailraceError | None = None
        self.listener: Listener = lambda answers: None
        self._config = config
        self._context = context
        self._client = SecureClient()
        self._client.tls_wanted = config.tls
        self._wire = Wire(self._client)
        self._news = asyncio.Event()
        self._broken = asyncio.Event()
        self._cause: Exception | None = None
        self._next = 1

    @property
    def token(self) -> str:
        """What no other connection to the server is called by."""
        return self.inbox.rpartition(".")[2]

    @property
    def max_payload(self) -> int:
        """Bytes in headers and body that the server takes at most."""
        return int(self._client.max_payload)

    @property
    def version(self) -> tuple[int, int]:
        """The server's, major and minor."""
        found = self._client.connected_server_version
        return found.major, found.minor

    @property
    def encrypted(self) -> bool:
        """Whether TLS is in use."""
        return self._wire.about("ssl_object") is not None

    @property
    def address(self) -> str:
        """The IP address of the server."""
        return str(self._wire.about("peername")[0])

    async def open(self) -> None:
        """Connect and listen for answers; ConfigError if refused, LostError if out of reach."""
        try:
            async with asyncio.timeout(2 * self._config.connect_timeout):
                await self._client.connect(**self._options())
        except Exception as error:
            await self.close(lost=True)
            raise self._translated(error) from error
        self.inbox = self._client.new_inbox()
        self._wire.listen(self.inbox, self._take)
        await self._client.subscribe(f"{self.inbox}.>", cb=self._take_one)

    def numbers(self, count: int) -> int:
        """The first of `count` numbers that no other answer on this connection has."""
        first, self._next = self._next, self._next + count
        return first

    async def send(self, data: bytes) -> None:
        """Write whole frames."""
        self.check()
        try:
            async with asyncio.timeout(self._config.ack_timeout):
                await self._wire.write(data)
        except (OSError, TimeoutError) as error:
            raise LostError(f"the connection to {self.server} broke: {text_of(error)}") from error

    async def wait(self) -> None:
        """Return when something has been heard since the last time; LostError if nothing is."""
        await self._until(self._news, "acknowledgement")
        self._news.clear()
        self.check()

    async def _until(self, news: asyncio.Event, what: str) -> None:
        patience = self._config.ack_timeout
        end = asyncio.get_running_loop().time() + patience
        while not news.is_set():
            self.check()  # older nats-py does not always say that it has closed
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                raise LostError(f"no {what} from {self.server} for {patience:g} s")
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK)):
                    await news.wait()

    def check(self) -> None:
        """Raise what has gone wrong with the connection, if anything."""
        if self.fault is not None:
            raise self.fault
        if self._client.is_closed:
            cause = self._client.last_error or self._cause
            raise LostError(f"the connection to {self.server} is lost: {text_of(cause)}")

    async def flush(self) -> None:
        """Return when the server has taken in everything sent so far."""
        try:
            await self._client.flush(max(1, round(self._config.ack_timeout)))
        except (nats.errors.Error, OSError) as error:
            self.check()
            raise LostError(f"no answer from {self.server}: {text_of(error)}") from error
        self.check()

    async def request(self, subject: str, payload: object = None) -> dict[str, Any] | None:
        """JetStream's answer to a request; None if there is no JetStream to answer."""
        body = msgspec.json.encode(payload) if payload is not None else b""
        asked = self._client.request(subject, body, timeout=self._config.connect_timeout)
        try:
            reply = await self._unless_broken(asked)
        except nats.errors.NoRespondersError:
            return None
        except (nats.errors.Error, OSError) as error:
            self.check()
            raise LostError(
                f"no answer to {subject} from {self.server}: {text_of(error)}"
            ) from error
        answer: dict[str, Any] = msgspec.json.decode(reply.data)
        return answer

    async def fetch(self, subject: str, payload: object, count: int, take: TakeHeaders) -> None:
        """Ask a pull consumer for `count` messages, and give the headers of each to `take`.

        Returns early when the server says that there are no more.
        """
        heard = asyncio.Event()
        left = count

        async def hear(message: Msg) -> None:
            nonlocal left
            headers = message.headers or {}
            if "Status" in headers:
                left = 0
            elif left:
                left -= 1
                take(headers)
            heard.set()

        try:
            replies = self._client.new_inbox()
            subscription = await self._client.subscribe(replies, cb=hear)
            await self._client.publish(subject, msgspec.json.encode(payload), reply=replies)
            while left:
                await self._until(heard, f"answer to {subject}")
                heard.clear()
            await subscription.unsubscribe()
        except nats.errors.Error as error:
            self.check()
            raise LostError(f"no answer from {self.server}: {text_of(error)}") from error

    async def _unless_broken(self, asked: Coroutine[Any, Any, Msg]) -> Msg:
        """A refused request has no answer: do not wait for one."""
        asking = asyncio.ensure_future(asked)
        broken = asyncio.ensure_future(self._broken.wait())
        try:
            await asyncio.wait({asking, broken}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                self.check()
            return await asking
        finally:
            for task in (asking, broken):
                task.cancel()
            await asyncio.gather(asking, broken, return_exceptions=True)

    async def close(self, *, lost: bool = False) -> None:
        """Give socket and tasks back; what is not sent yet is dropped if the connection is lost."""
        if lost:
            self._wire.abort()
        with suppress(Exception):
            async with asyncio.timeout(_CLOSING):
                await self._client.close()
        self._wire.abort()
        await asyncio.sleep(0)  # for the tasks that nats-py has cancelled

    def _take(self, answers: Any) -> None:
        self.listener(answers)
        self._news.set()

    async def _take_one(self, message: Msg) -> None:
        # An empty answer without headers is of a message that is taken and not stored yet.
        body = message.data if message.headers else message.data or b"{}"
        self._take([(message.subject[len(self.inbox) + 1 :].encode(), body)])

    async def _on_error(self, error: Exception) -> None:
        self._cause = error
        text = text_of(error)
        log.debug("%s: %s", self.server, text)
        if "permissions violation" in text:
            self.fault = forbidden(text, self.server, self._config)
            self._break()

    async def _on_closed(self) -> None:
        self._break()

    def _break(self) -> None:
        self._broken.set()
        self._news.set()

    def _options(self) -> dict[str, Any]:
        config, server = self._config, self.server
        options: dict[str, Any] = {
            "servers": [server.address],
            "name": "tailrace",
            "error_cb": self._on_error,
            "closed_cb": self._on_closed,
            "allow_reconnect": False,
            "max_reconnect_attempts": 1,
            "reconnect_time_wait": 0.05,
            "connect_timeout": config.connect_timeout,
            "ping_interval": _PING,
            "inbox_prefix": config.inbox,
            "tls": self._context,
        }
        return options | credentials(server, config)

    def _translated(self, error: Exception) -> TailraceError:
        cause = self._cause if isinstance(error, nats.errors.NoServersError) else error
        found = connecting(cause or error, self.server, self._config)
        if isinstance(found, LostError) and self._client.certificate_wanted:
            # With TLS 1.3 a certificate is refused after the handshake, without a word.
            found.message += "; it asks for a certificate, and may not accept sink.tls.cert"
        return found
