"""The replication connection: START_REPLICATION, reading without blocking, keepalives.

psycopg has connected (`tailrace_postgres.connecting`); once the server has answered COPY_BOTH this
module reads and writes through libpq alone, never blocking (PostgreSQL manual, 54.4).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import psycopg
from psycopg import pq, sql
from psycopg.abc import Query
from psycopg.errors import Diagnostic, error_from_result

from tailrace.errors import TailraceError, TransientError
from tailrace_postgres import pgoutput
from tailrace_postgres.errors import translate
from tailrace_postgres.lsn import lsn_text
from tailrace_postgres.transactions import Consume, Receive

_STATUS_INTERVAL = 1.0
_BUSY = 10_000.0  # messages a second from which reading naps
_NAP = 0.0003


class Link:
    """One running START_REPLICATION. `received` is kept by the reader; `flushed` by `release`.

    `unpublished` is set when the server came to changes that were written while there was no such
    publication, and left them out (PostgreSQL 18; older ones end the stream).
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], flushed: int) -> None:
        self.flushed = flushed
        self.received = 0
        self.unpublished = False
        self._connection = connection
        self._pgconn: pq.abc.PGconn = connection.pgconn
        self._keeper: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._count = 0
        self._since = time.monotonic()
        self._napping = False

    async def start(self, slot: str, publication: str, lsn: int, timeout: float) -> None:
        """Begin to stream at `lsn`. `timeout` is the server's wal_sender_timeout in seconds."""
        quoted = '"' + publication.replace('"', '""') + '"'
        command: Query = sql.SQL(
            "START_REPLICATION SLOT {} LOGICAL {}"
            " (proto_version '1', publication_names {}, messages 'true')"
        ).format(sql.Identifier(slot), sql.SQL(lsn_text(lsn)), sql.Literal(quoted))
        self._connection.add_notice_handler(self._heed)
        await self._connection.execute(command)
        self._pgconn.nonblocking = 1
        interval = min(_STATUS_INTERVAL, timeout / 3) if timeout else _STATUS_INTERVAL
        self._keeper = asyncio.create_task(self._keep(interval), name="postgres keepalive")

    @property
    def receive(self) -> Receive:
        return self._pgconn.get_copy_data

    @property
    def consume(self) -> Consume:
        return self._pgconn.consume_input

    def end(self) -> TailraceError:
        """Why the stream ended: the server's error, or a shutdown."""
        self._pgconn.nonblocking = 0
        result = self._pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            error = error_from_result(result)
            self.unpublished = error.sqlstate == "42704"
            return translate(error, "the replication stream ended")
        return TransientError("the server ended the replication stream")

    def _heed(self, notice: Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING" and notice.sqlstate == "55000":
            self.unpublished = True

    async def wait(self, messages: int) -> bool:
        """Wait for more after `messages` were taken; False if none came within a second.

        The server sends a small segment for every change, and waking for each costs more than
        reading it. So while messages come fast, nap first and find many.
        """
        self._count += messages
        now = time.monotonic()
        elapsed = now - self._since
        if elapsed > 0.002:
            self._napping = self._count / elapsed > _BUSY
            self._count, self._since = 0, now
        if self._napping and messages:
            await asyncio.sleep(_NAP)
            return True
        return await self._readable(_STATUS_INTERVAL)

    async def _readable(self, timeout: float) -> bool:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        socket = self._pgconn.socket

        def wake(readable: bool) -> None:
            if not ready.done():
                ready.set_result(readable)

        loop.add_reader(socket, wake, True)
        timer = loop.call_later(timeout, wake, False)
        try:
            result: bool = await ready
        finally:
            timer.cancel()
            loop.remove_reader(socket)
        if self._failure:
            raise TransientError(f"the replication connection failed: {self._failure}")
        return result

    def send_status(self, *, reply: bool = False) -> None:
        """Tell the server how far we are. Never waits: what does not fit is sent later."""
        now = time.time_ns() // 1000
        data = pgoutput.status(max(self.received, self.flushed), self.flushed, now, reply=reply)
        self._pgconn.put_copy_data(data)
        self._pgconn.flush()

    def ask(self) -> None:
        """Have the server say how far it is. A connection that broke is the reader's business."""
        with contextlib.suppress(psycopg.Error):
            self.send_status(reply=True)

    async def _keep(self, interval: float) -> None:
        """Status updates whatever the sink does, so that the server does not hang up on us."""
        while True:
            await asyncio.sleep(interval)
            try:
                self.send_status(reply=True)
            except psycopg.Error as error:
                self._failure = error
                return

    async def close(self) -> None:
        """Send the last status, end the stream if the connection still lives, and close it."""
        if self._keeper:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        with contextlib.suppress(psycopg.Error, OSError):
            if self._keeper and self._pgconn.status == pq.ConnStatus.OK:
                self.send_status()
                self._pgconn.put_copy_end()
                self._pgconn.flush()
        await self._connection.close()
