"""``cdc check`` of the sink: servers, user, account and stream. Makes and stores nothing."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from msgspec import convert, structs

from tailrace.connector import Finding, findings_of
from tailrace.errors import ConfigError, TailraceError
from tailrace.event import Position
from tailrace_nats.check.permissions import Permissions, missing
from tailrace_nats.check.server import Account, account, fast_ingest, server
from tailrace_nats.check.stream import Found, stream
from tailrace_nats.config import NatsConfig, Server
from tailrace_nats.connection import Connection
from tailrace_nats.credentials import check_creds, check_nkey, tls_context
from tailrace_nats.newest import Reader
from tailrace_nats.settings import drift
from tailrace_nats.stamp import Stamper
from tailrace_nats.stream import Streams
from tailrace_nats.subjects import Subjects, shapes

__all__ = ["examine", "stored"]


async def examine(config: NatsConfig, pipeline: str) -> list[Finding]:
    """All that there is to say of the far end."""
    try:
        check_creds(config.creds)
        check_nkey(config.nkey)
        far = _FarEnd(config, pipeline, tls_context(config))
    except ConfigError as error:
        return findings_of(error, "credentials")
    findings = await far.servers()
    if far.server is None:
        return findings
    findings += await far.permissions()
    if config.mode == "core":
        text = "an event reaches who listens at the moment, and nobody else"
        return [*findings, Finding("warning", "mode", text, "sink.mode=jetstream")]
    if not any(finding.level == "error" for finding in findings):
        findings += await far.jetstream()
    return findings


async def stored(config: NatsConfig, stamper: Stamper, reach: int) -> Position | None:
    """The pipeline's position in the stream's newest `reach` messages, if the stream is there."""
    check_creds(config.creds)
    check_nkey(config.nkey)
    far = _FarEnd(config, stamper.pipeline, tls_context(config))
    await far.servers()
    return await far.stored(stamper, reach) if far.server is not None else None


class _FarEnd:
    """The servers of one sink; `server` is the first that takes us."""

    def __init__(self, config: NatsConfig, pipeline: str, context: ssl.SSLContext | None) -> None:
        self.server: Server | None = None
        self._config = config
        self._context = context
        self._subjects = Subjects(config.subject, config.subjects, pipeline)
        self._streams = Streams(config, self._subjects)

    async def servers(self) -> list[Finding]:
        findings: list[Finding] = []
        refusals: list[Finding] = []
        for each in self._config.servers:
            try:
                async with self._connected(each) as connection:
                    findings += server(connection)
                    self.server = self.server or each
            except TailraceError as error:
                error.mend = error.mend or "start the server, or correct sink.url"
                refusals += findings_of(error, "server")
        if self.server is not None:  # one is enough
            refusals = [structs.replace(refusal, level="warning") for refusal in refusals]
        return [*refusals, *findings]

    async def permissions(self) -> list[Finding]:
        """What the user may, as far as the server says so."""
        answer = await self._told("$SYS.REQ.USER.INFO")
        found = convert((answer or {}).get("data", {}).get("permissions") or {}, Permissions)
        name, api = self._streams.name, "$JS.API"
        needed = [shapes(subject, self._subjects.name)[0] for subject in self._subjects.templates]
        if self._config.mode == "jetstream":
            needed.append(f"{api}.STREAM.INFO.{name}")
            if self._config.resume:
                calls = ("CREATE", "MSG.NEXT", "DELETE")
                needed += [f"{api}.CONSUMER.{call}.{name}.>" for call in calls]
        return list(missing(found, needed, f"{self._config.inbox}.>"))

    async def jetstream(self) -> list[Finding]:
        """The stream, and the account that it is in."""
        try:
            async with self._connected() as connection:
                found = await self._streams.look(connection)
                findings = [*fast_ingest(connection.version)]
                if found is None:
                    text = f"{self._streams.name} is made at the first start"
                    findings.append(Finding("ok", "stream", text))
                else:
                    await self._streams.find(connection, first=True)  # there: refuses, or makes no
                    known = convert(found, Found)
                    findings += stream(known, self._subjects, self._config, connection.version)
                    differences = drift(self._config, found["config"])
                    findings += [Finding("warning", "settings", *each) for each in differences]
        except TailraceError as error:
            return findings_of(error, "stream")
        return [*findings, *await self._account(makes_stream=found is None)]

    async def stored(self, stamper: Stamper, reach: int) -> Position | None:
        async with self._connected() as connection:
            if await self._streams.look(connection) is None:
                return None
            reader = Reader(connection, self._streams.name, self._subjects.shapes, stamper)
            return (await reader.read(reach)).position

    async def _account(self, *, makes_stream: bool) -> list[Finding]:
        answer = await self._told("$JS.API.INFO")
        if answer is None or "error" in answer:
            return []
        return list(account(convert(answer, Account), makes_stream=makes_stream))

    async def _told(self, subject: str) -> dict[str, Any] | None:
        """The answer to a question that is not every user's; None if it is not for ours.

        On a connection of its own, as a refusal is the end of one.
        """
        try:
            async with self._connected() as connection:
                return await connection.request(subject)
        except TailraceError:
            return None

    @asynccontextmanager
    async def _connected(self, to: Server | None = None) -> AsyncIterator[Connection]:
        server = to or self.server
        assert server is not None
        connection = Connection(server, self._config, self._context)
        try:
            await connection.open()
            yield connection
        finally:
            await connection.close()
