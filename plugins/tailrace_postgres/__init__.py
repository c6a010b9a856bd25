"""Tailrace's PostgreSQL source: logical replication with pgoutput, nothing to install upstream."""

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
