"""A source's check as the tests call it, and roles with few rights."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines import sql
from tailrace.connector import Finding, Setup
from tailrace_postgres.config import PostgresConfig
from tailrace_postgres.source import PostgresSource


def checked(
    dsn: str, *, name: str = "test", backfill: tuple[str, ...] = ("*.*",), **keys: str
) -> list[Finding]:
    """What the check of a source with these keys finds."""
    config = PostgresConfig(**{"dsn": dsn, **keys})  # type: ignore[arg-type]
    source = PostgresSource(config, Setup(name, "postgres", backfill=backfill))
    return asyncio.run(source.check())


def as_role(dsn: str, role: str) -> str:
    return dsn.replace("postgres@", f"{role}@", 1)


@contextmanager
def a_role(dsn: str, options: str = "REPLICATION") -> Iterator[str]:
    """A role of the server at `dsn`, dropped with all that it has got."""
    role = f"r_{uuid.uuid4().hex[:12]}"
    sql(dsn, f"CREATE ROLE {role} LOGIN {options}")
    try:
        yield role
    finally:
        sql(dsn, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")
