"""The sink ``nats``: batches of events into a JetStream stream, or into core NATS."""

from __future__ import annotations

import logging
import ssl
import time
from itertools import repeat
from typing import ClassVar

from tailrace.connector import Finding, Setup, Sink
from tailrace.errors import ConfigError, RejectedError, TailraceError, TransientError
from tailrace.event import Batch, Position
from tailrace.formats import Format
from tailrace_nats import atomic
from tailrace_nats.answers import LostError, UntakenError
from tailrace_nats.check import examine, stored
from tailrace_nats.config import NatsConfig
from tailrace_nats.connection import Connection
from tailrace_nats.credentials import check_creds, check_nkey, tls_context
from tailrace_nats.frames import Framer
from tailrace_nats.ingest import ingest
from tailrace_nats.known import Known
from tailrace_nats.newest import FAR, Newest, Reader
from tailrace_nats.outbox import Outbox
from tailrace_nats.pubacks import publish
from tailrace_nats.settings import drift, durability
from tailrace_nats.stamp import Stamper
from tailrace_nats.stream import Stream, Streams
from tailrace_nats.subjects import Subjects

log = logging.getLogger("tailrace.nats")

_CHUNK = 500


class NatsSink(Sink):
    """Writes messages to subjects; durable is what the server has acknowledged, nothing less.

    What is unacknowledged when a connection breaks is sent again on the next one, in order and
    under the same ids, at once as long as that makes headway; else `write` raises TransientError.
    What the stream has already is left out: at the start by what is read back from it, and after
    a break that outlasts the stream's own window.
    """

    Config: ClassVar[type[NatsConfig]] = NatsConfig
    capabilities = frozenset({"ordered_per_key", "idempotent", "position", "atomic_transactions"})
    config: NatsConfig

    def __init__(self, config: NatsConfig, setup: Setup, format: Format) -> None:
        super().__init__(config, setup, format)
        self._servers = list(config.servers)
        self._subjects = Subjects(config.subject, config.subjects, setup.name)
        self._framer = Framer(self._subjects)
        self._streams = Streams(config, self._subjects)
        self._context: ssl.SSLContext | None = None
        self._connection: Connection | None = None
        self._stream: Stream | None = None
        self._limit = atomic.Limit()
        self._again: dict[str, int] = {}
        self._known: Known | None = None
        self._begun: float | None = None  # when the oldest unacknowledged message was sent first

    @property
    def whole(self) -> bool:
        return self.config.atomic

    async def open(self) -> None:
        check_creds(self.config.creds)
        check_nkey(self.config.nkey)
        self._context = tls_context(self.config)
        try:
            await self._connect()
        except LostError as error:
            raise ConfigError(
                f"sink.url: {error.message}", mend="start the server, or correct sink.url"
            ) from error

    async def close(self) -> None:
        await self._drop(lost=False)

    async def check(self) -> list[Finding]:
        return await examine(self.config, self.setup.name)

    async def position(self) -> Position | None:
        if not self.config.resume or self.config.mode == "core":
            return None
        try:
            newest = await self._newest(await self._connected())
        except LostError:
            await self._drop(lost=True)
            raise
        self._known = Known(frozenset(newest.ids), self._replayed) if newest.ids else None
        return newest.position

    async def peek(self) -> Position | None:
        if not self.config.resume or self.config.mode == "core":
            return None
        return await stored(self.config, self._stamper, self._replayed)

    @property
    def _replayed(self) -> int:
        """What a restart may deliver again, in events."""
        return min(2 * self.setup.batch_events, FAR)

    async def _newest(self, connection: Connection) -> Newest:
        assert self._stream is not None
        reader = Reader(connection, self._stream.name, self._subjects.shapes, self._stamper)
        return await reader.read(self._replayed)

    @property
    def _stamper(self) -> Stamper:
        return Stamper(self.setup.name, self.source)

    async def write(self, batch: Batch) -> None:
        stamp = None if self._stream is None else self._stamper.headers(batch.position)
        outbox = Outbox(self.format.encode(batch.events), self._again, stamp)
        known = self._known and self._known.leave_out(outbox)
        await self._deliver_all(outbox)
        self._again.clear()
        self._known, self._begun = known, None
        if outbox.rejected:
            raise RejectedError(
                outbox.rejected,
                mend="raise max_payload of the server and max_msg_size of the stream",
            )

    async def _deliver_all(self, outbox: Outbox) -> None:
        stuck = False
        while outbox.left:
            before = outbox.left
            try:
                await self._deliver(outbox)
            except LostError as error:
                await self._drop(lost=True)
                if stuck and outbox.left == before:
                    raise
                stuck = outbox.left == before
                log.warning("%s; sending again what is unacknowledged", error.message)
            except UntakenError as error:
                raise await self._explained(error) from error

    async def _deliver(self, outbox: Outbox) -> None:
        connection = await self._connected()
        connection.check()
        outbox.all_to_send()
        if self._stream is None:
            outbox.reject_larger(self._framer, connection.max_payload, "max_payload is smaller")
            await self._publish_plainly(connection, outbox)
            return
        await self._leave_out_what_came_through(connection, self._stream, outbox)
        self._reject_larger(connection, self._stream, outbox)
        if self.config.atomic:
            await atomic.Delivery(
                connection, self._framer, self._stream, outbox, self._limit, self.config.window
            ).run()
        elif self._stream.batched:
            await ingest(connection, self._framer, self._stream, outbox)
        else:
            window = 1 if self._again else self.config.window
            await publish(connection, self._framer, self._stream, outbox, window)

    async def _leave_out_what_came_through(
        self, connection: Connection, stream: Stream, outbox: Outbox
    ) -> None:
        """Of an earlier attempt, if that is so long ago that the stream may have forgotten it."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = now
        elif self.config.resume and now - self._begun > stream.window / 2:
            newest = await self._newest(connection)
            Known(frozenset(newest.ids), outbox.left).leave_out(outbox)

    def _reject_larger(self, connection: Connection, stream: Stream, outbox: Outbox) -> None:
        spare = atomic.OVERHEAD if self.config.atomic else 0
        limit = connection.max_payload - spare
        outbox.reject_larger(self._framer, limit, "max_payload is smaller")
        if stream.max_size is not None:
            outbox.reject_larger(self._framer, stream.max_size - spare, f"{stream.name} takes less")

    async def _publish_plainly(self, connection: Connection, outbox: Outbox) -> None:
        for low in range(0, len(outbox.messages), _CHUNK):
            part = slice(low, low + _CHUNK)
            await connection.send(
                self._framer.frames(outbox.messages[part], outbox.ids[part], repeat(""))
            )
        await connection.flush()
        outbox.done = len(outbox.messages)

    async def _connected(self) -> Connection:
        return self._connection or await self._connect()

    async def _connect(self) -> Connection:
        """A connection to the first server that takes us, and the stream as it is there."""
        errors: list[TailraceError] = []
        for server in list(self._servers):
            connection = Connection(server, self.config, self._context)
            try:
                await connection.open()
                if self.config.mode == "jetstream":
                    await self._find_stream(connection)
            except (ConfigError, TransientError) as error:
                await connection.close(lost=True)
                errors.append(error)
            except BaseException:
                await connection.close(lost=True)
                raise
            else:
                self._connection = connection
                return connection
            self._servers.append(self._servers.pop(0))
        raise _worst(errors)

    async def _find_stream(self, connection: Connection) -> None:
        first = self._stream is None
        self._stream = await self._streams.find(connection, first=first)
        if first:
            log.info("%s", durability(self._stream.config))
            for difference, cure in drift(self.config, self._stream.config):
                log.warning("%s; it is left so -> %s", difference, cure)

    async def _drop(self, *, lost: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close(lost=lost)

    async def _explained(self, error: UntakenError) -> TailraceError:
        """Why the stream did not see the event: its own error is not telling."""
        assert self._connection is not None
        try:
            stream = await self._streams.find(self._connection, first=False)
        except (ConfigError, TransientError) as reason:
            return reason
        if stream.takes(error.subject):
            return error
        return ConfigError(
            f"sink.subject: no subject of stream {stream.name} takes {error.subject}: "
            f"it has {', '.join(stream.subjects)}",
            mend=f"nats stream edit {stream.name} "
            f"--subjects '{','.join([*stream.subjects, error.subject])}'",
        )


def _worst(errors: list[TailraceError]) -> TailraceError:
    """What the user must mend goes before what may pass."""
    return next((e for e in errors if isinstance(e, ConfigError)), errors[0])
