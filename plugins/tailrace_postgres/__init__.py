"""Tailrace's PostgreSQL source, with nothing to install upstream, and its checkpoint store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.hookspecs import hookimpl

if TYPE_CHECKING:
    from tailrace.registry import Register


@hookimpl
def tailrace_register(register: Register) -> None:
    register.source(
        "postgres",
        connector="tailrace_postgres.source:PostgresSource",
        config="tailrace_postgres.config:PostgresConfig",
        extra="postgres",
    )
    for name in ("postgres", "postgresql"):  # an address begins with either
        register.store(name, store="tailrace_postgres.store:PostgresStore", extra="postgres")
