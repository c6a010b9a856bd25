"""A JetStream key-value bucket: where it is, and a connection to it that is made anew if it breaks.

By nats-py's API alone. Its own reconnecting is off: it would send late what the caller has given
up, and says nothing of how it fares.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import nats.errors
import nats.js.errors
from msgspec import Struct
from nats.js.api import KeyValueConfig, StorageType
from nats.js.client import JetStreamContext
from nats.js.kv import KeyValue

from tailrace.errors import ConfigError, TransientError
from tailrace_nats.config import Server
from tailrace_nats.credentials import check_creds
from tailrace_nats.wire import SecureClient, Wire

_Found = TypeVar("_Found")

DEFAULT = "tailrace_checkpoints"

PATIENCE = 5.0
"""How many seconds an answer may take."""

_CLOSING = 2.0
_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")


class Address(Struct, frozen=True):
    """``//user:password@host:4222,host:4222/BUCKET?replicas=3&creds=FILE``, taken apart."""

    servers: tuple[Server, ...]
    bucket: str = DEFAULT
    replicas: int = 1
    creds: str | None = None

    @classmethod
    def parse(cls, location: str) -> Address:
        """Raises ValueError, which repeats nothing of what may be a secret."""
        scheme, slashes, rest = location.partition("//")
        user, at, rest = rest.rpartition("@")
        place, _, query = rest.partition("?")
        hosts, _, bucket = place.partition("/")
        if not slashes or set(user) & set("/?"):
            raise ValueError("not an address; write / ? and @ of the password as %2F %3F and %40")
        start = f"{scheme or 'nats:'}//{user}{at}"
        servers = tuple(Server(start + host) for host in hosts.split(","))
        if not _NAME.fullmatch(bucket or DEFAULT):
            raise ValueError("a bucket's name has letters, digits, _ and - only")
        return cls(servers, bucket or DEFAULT, **_options(query))


def _address(location: str) -> Address:
    try:
        address = Address.parse(location)
    except ValueError as error:
        raise ConfigError(
            f"checkpoint: nats: is not followed by the address of a bucket: {error}",
            mend="write checkpoint=nats://user:password@host:4222/BUCKET",
        ) from None
    try:
        check_creds(Path(address.creds) if address.creds else None)
    except ConfigError as error:
        text = error.message.removeprefix("sink.creds: ")
        raise ConfigError(f"checkpoint: creds: {text}", mend=error.mend) from error
    return address


def _options(query: str) -> dict[str, Any]:
    given: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    replicas = given.pop("replicas", "1")
    if not given.keys() <= {"creds"} or replicas not in tuple("12345"):
        raise ValueError("behind the ? may stand replicas=1 to 5 and creds=FILE")
    return {**given, "replicas": int(replicas)}


class Bucket:
    """Keys, values and revisions. `location` is an `Address`, `where` how errors call it.

    Every method but `close` raises TransientError for whatever the server or the way to it does,
    and may be called again then.
    """

    _address: Address

    def __init__(self, location: str, where: str) -> None:
        self._location = location
        self._where = where
        self._connecting = asyncio.Lock()
        self._client: SecureClient | None = None
        self._js: JetStreamContext | None = None
        self._kv: KeyValue | None = None
        self._refused: Exception | None = None

    async def open(self) -> None:
        """Connect, and make the bucket if it is missing.

        Raises ConfigError for a wrong address, and for a bucket that forgets.
        """
        self._address = _address(self._location)
        kv = await self._connected()
        with self._errors():
            config = (await kv.status()).stream_info.config
        if config.storage != StorageType.FILE or config.max_age:
            raise ConfigError(
                f"checkpoint: bucket {self._address.bucket} forgets what it holds: storage"
                f" {config.storage}, maximum age {config.max_age or 0:g} s",
                mend="name another, which is made as it has to be: checkpoint=nats://…/BUCKET",
            )

    async def made(self) -> bool:
        """Whether the bucket is there; makes none. Raises ConfigError for a wrong address."""
        self._address = _address(self._location)
        try:
            return await self._connect(self._found) is not None
        finally:
            await self.close()

    async def close(self) -> None:
        client, self._client, self._kv = self._client, None, None
        if client is None:
            return
        wire = Wire(client)
        if not client.is_connected:
            wire.abort()  # it would wait for the far end
        with suppress(Exception):
            async with asyncio.timeout(_CLOSING):
                await client.close()
        wire.abort()
        await asyncio.sleep(0)  # for the tasks that nats-py has cancelled

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """The value and its revision."""
        kv = await self._connected()
        with self._errors():
            try:
                entry = await kv.get(key)
            except nats.js.errors.KeyNotFoundError:
                return None
        return entry.value or b"", entry.revision or 0

    async def swap(self, key: str, value: bytes, revision: int) -> int | None:
        """Put `value` in the place of `revision` (0: of nothing); the new one.

        None if the key has another revision by now. Durable on return, as the server takes it.
        """
        kv = await self._connected()
        with self._errors():
            try:
                if revision:
                    return await kv.update(key, value, last=revision)
                return await kv.create(key, value)
            except nats.js.errors.KeyWrongLastSequenceError:
                return None

    async def drop(self, key: str) -> None:
        """Remove the key, if it is there."""
        if await self.get(key) is not None:
            kv = await self._connected()
            with self._errors():
                await kv.delete(key)

    async def keys(self, prefix: str) -> list[str]:
        """The keys that begin with `prefix`, a word with its dot."""
        await self._connected()
        assert self._js is not None
        subjects = f"$KV.{self._address.bucket}."
        with self._errors():
            info = await self._js.stream_info(
                f"KV_{self._address.bucket}", subjects_filter=f"{subjects}{prefix}>"
            )
        return [subject.removeprefix(subjects) for subject in info.state.subjects or ()]

    async def _connected(self) -> KeyValue:
        async with self._connecting:  # requests are looked for while a position is saved
            if self._kv is None or self._client is None or self._client.is_closed:
                self._kv = await self._connect(self._find)
            return self._kv

    async def _connect(self, find: Callable[[JetStreamContext], Awaitable[_Found]]) -> _Found:
        """What `find` gives on a connection to the first server that takes us."""
        errors: list[TransientError] = []
        for server in self._address.servers:
            await self.close()
            try:
                with self._errors():
                    return await find(await self._connect_to(server))
            except TransientError as error:
                errors.append(error)
        await self.close()
        raise errors[0]

    async def _connect_to(self, server: Server) -> JetStreamContext:
        client = self._client = SecureClient()
        client.tls_wanted = server.tls
        self._refused = None
        async with asyncio.timeout(2 * PATIENCE):
            await client.connect(**self._options(server))
        self._js = client.jetstream(timeout=PATIENCE)
        return self._js

    async def _found(self, js: JetStreamContext) -> KeyValue | None:
        try:
            return await js.key_value(self._address.bucket)
        except nats.js.errors.BucketNotFoundError:
            return None

    async def _find(self, js: JetStreamContext) -> KeyValue:
        """The bucket; made if it is missing."""
        wanted = KeyValueConfig(
            bucket=self._address.bucket,
            description="Where Tailrace's pipelines keep their positions",
            history=1,
            storage=StorageType.FILE,
            replicas=self._address.replicas,
        )
        return await self._found(js) or await js.create_key_value(wanted)

    def _options(self, server: Server) -> dict[str, Any]:
        options: dict[str, Any] = {
            "servers": [server.address],
            "name": "tailrace checkpoint",
            "error_cb": self._heard,
            "allow_reconnect": False,
            "max_reconnect_attempts": 1,
            "reconnect_time_wait": 0.05,
            "connect_timeout": PATIENCE,
            "tls": ssl.create_default_context() if server.tls else None,
        }
        if self._address.creds is not None:
            options["user_credentials"] = self._address.creds
        elif server.password is not None:
            options |= {"user": server.user, "password": server.password.get_secret_value()}
        elif server.user is not None:
            options["token"] = server.user
        return options

    async def _heard(self, error: Exception) -> None:
        if "permissions violation" in str(error).lower():
            self._refused = error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """nats-py's errors of the block leave it as Tailrace's."""
        try:
            yield
        except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
            if isinstance(error, TimeoutError):
                self._kv = None  # the connection may be dead without knowing it
            cause = self._refused or error  # a refused request is never answered
            text = (str(cause) or type(cause).__name__).removeprefix("nats: ")
            raise TransientError(
                f"the checkpoint in {self._where} cannot be reached: {text}",
                mend=_mend(text.lower()),
            ) from error


_MENDS = {
    "permissions violation": "grant the user publish on $KV.> and $JS.API.>, and subscribe on"
    " _INBOX.>",
    "authorization": "put user:password@ or a token@ before the host, or ?creds=FILE at the end",
    "ssl": "set SSL_CERT_FILE to the authority that signed the server's certificate",
    "secure connection": "set up TLS on the server, or begin the address with nats:",
    "no responders": "start the server with: nats-server -js",
    "not enabled": "start the server with: nats-server -js, and enable it for the account",
    "no response from stream": "see whether the bucket is there and has a leader: nats kv ls",
    "": "check host and port, and that the server runs",
}
"""What mends an error, by a word in its text."""


def _mend(text: str) -> str:
    return next(mend for word, mend in _MENDS.items() if word in text)
