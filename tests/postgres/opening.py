"""What the source says when it opens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tailrace.config import PluginConfig
from tailrace.connector import Setup
from tailrace.errors import ConfigError
from tailrace_postgres.config import PostgresConfig
from tailrace_postgres.source import PostgresSource


@asynccontextmanager
async def opened(dsn: str, **keys: str) -> AsyncIterator[PostgresSource]:
    config: PluginConfig = PostgresConfig(**{"dsn": dsn, **keys})  # type: ignore[arg-type]
    assert isinstance(config, PostgresConfig)
    async with PostgresSource(config, Setup("test", "postgres")) as source:
        yield source


def opens(dsn: str, **keys: str) -> str:
    """The identity of the server that it opens."""

    async def identity() -> str:
        async with opened(dsn, **keys) as source:
            return source.identity

    return asyncio.run(identity())


def refused(dsn: str, **keys: str) -> str:
    """The error for the user, with the mending step, with which `cdc` ends with status 2."""
    with pytest.raises(ConfigError) as caught:
        opens(dsn, **keys)
    assert caught.value.exit_status == 2
    assert caught.value.mend
    return str(caught.value)
