"""The PostgreSQL source alone, without a pipeline: every batch, and the position of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from pydantic import SecretStr

from pipelines import DEADLINE, in_transaction
from tailrace.connector import Setup
from tailrace.event import Batch, Event, Position
from tailrace_postgres.config import PostgresConfig
from tailrace_postgres.source import PostgresSource


@asynccontextmanager
async def opened(
    dsn: str, *, batch_events: int = 5_000, batch_bytes: int = 4 << 20, **keys: Any
) -> AsyncIterator[PostgresSource]:
    setup = Setup("test", "postgres", batch_events, batch_bytes)
    async with PostgresSource(PostgresConfig(dsn=SecretStr(dsn), **keys), setup) as source:
        yield source


async def started(source: PostgresSource) -> Position:
    """Where the stream of a new pipeline begins."""
    async with aclosing(source.stream(None)) as stream:
        return (await anext(stream)).position


async def read(source: PostgresSource, after: Position) -> list[Batch]:
    """The batches after `after`, up to what is committed now."""
    batches = []
    async with asyncio.timeout(DEADLINE), aclosing(source.stream(after)) as stream:
        mark = await source.head()
        async for batch in stream:
            batches.append(batch)
            if source.passed(batch.position, mark):
                return batches
    raise AssertionError("the stream ended")


def events_of(batches: list[Batch]) -> list[Event]:
    return [event for batch in batches for event in batch.events]


def streamed(dsn: str, *transactions: str | tuple[str, ...], **keys: Any) -> list[Event]:
    """The events of transactions (a statement, or several) that follow the start of a stream."""

    async def scenario() -> list[Event]:
        async with opened(dsn, **keys) as source:
            start = await started(source)
            for statements in transactions:
                in_transaction(dsn, *((statements,) if isinstance(statements, str) else statements))
            return events_of(await read(source, start))

    return asyncio.run(scenario())
