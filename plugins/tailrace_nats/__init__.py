"""Sink and checkpoint store ``nats``. Importing this package imports no driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.hookspecs import hookimpl

if TYPE_CHECKING:
    from tailrace.registry import Register


@hookimpl
def tailrace_register(register: Register) -> None:
    """Offer sink and store by name."""
    register.sink(
        "nats",
        connector="tailrace_nats.sink:NatsSink",
        config="tailrace_nats.config:NatsConfig",
        extra="nats",
    )
    register.store("nats", store="tailrace_nats.store:NatsStore", extra="nats")
