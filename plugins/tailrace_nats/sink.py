"""The sink ``nats``: batches of events into a JetStream stream, or into core NATS."""

from __future__ import annotations

import logging
import ssl
from itertools import repeat
from typing import ClassVar

from tailrace.connector import Finding, Setup, Sink
from tailrace.errors import ConfigError, RejectedError, TailraceError, TransientError
from tailrace.event import Batch
from tailrace.formats import Format
from tailrace_nats import subjects
from tailrace_nats.answers import LostError, UntakenError
from tailrace_nats.check import examine
from tailrace_nats.config import NatsConfig
from tailrace_nats.connection import Connection
from tailrace_nats.credentials import check_creds, tls_context
from tailrace_nats.frames import Framer
from tailrace_nats.ingest import ingest
from tailrace_nats.outbox import Outbox
from tailrace_nats.pubacks import publish
from tailrace_nats.stream import Stream, Streams

log = logging.getLogger("tailrace.nats")

_CHUNK = 500


class NatsSink(Sink):
    """Writes messages to subjects; durable is what the server has acknowledged, nothing less.

    What is unacknowledged when a connection breaks is sent again on the next one, in order and
    under the same ids, at once as long as that makes headway; else `write` raises TransientError.
    """

    Config: ClassVar[type[NatsConfig]] = NatsConfig
    config: NatsConfig

    def __init__(self, config: NatsConfig, setup: Setup, format: Format) -> None:
        super().__init__(config, setup, format)
        self._servers = list(config.servers)
        subject = subjects.template(config.subject)
        self._framer = Framer(subject, setup.name)
        self._streams = Streams(config, subject, setup.name)
        self._context: ssl.SSLContext | None = None
        self._connection: Connection | None = None
        self._stream: Stream | None = None
        self._again: dict[str, int] = {}

    async def open(self) -> None:
        check_creds(self.config.creds)
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

    async def write(self, batch: Batch) -> None:
        outbox = Outbox(self.format.encode(batch.events), self._again)
        stuck = False
        while outbox.pending:
            before = outbox.pending
            try:
                await self._deliver(outbox)
            except LostError as error:
                await self._drop(lost=True)
                if stuck and outbox.pending == before:
                    raise
                stuck = outbox.pending == before
                log.warning("%s; sending again what is unacknowledged", error.message)
            except UntakenError as error:
                raise await self._explained(error) from error
        self._again.clear()
        if outbox.rejected:
            raise RejectedError(
                outbox.rejected,
                mend="raise max_payload of the server and max_msg_size of the stream",
            )

    async def _deliver(self, outbox: Outbox) -> None:
        connection = self._connection or await self._connect()
        connection.check()
        outbox.reject_larger(self._framer, connection.max_payload, "max_payload is smaller")
        stream = self._stream
        if stream is None:
            await self._publish_plainly(connection, outbox)
            return
        if stream.max_size is not None:
            outbox.reject_larger(self._framer, stream.max_size, f"{stream.name} takes less")
        if stream.batched:
            await ingest(connection, self._framer, stream, outbox)
        else:
            window = 1 if self._again else self.config.window
            await publish(connection, self._framer, stream, outbox, window)

    async def _publish_plainly(self, connection: Connection, outbox: Outbox) -> None:
        for low in range(0, len(outbox.messages), _CHUNK):
            part = slice(low, low + _CHUNK)
            await connection.send(
                self._framer.frames(outbox.messages[part], outbox.ids[part], repeat(""))
            )
        await connection.flush()
        outbox.done = len(outbox.messages)

    async def _connect(self) -> Connection:
        """A connection to the first server that takes us, and the stream as it is there."""
        errors: list[TailraceError] = []
        for server in list(self._servers):
            connection = Connection(server, self.config, self._context)
            try:
                await connection.open()
                if self.config.mode == "jetstream":
                    first = self._stream is None
                    self._stream = await self._streams.find(connection, first=first)
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
