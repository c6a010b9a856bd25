"""What a server, its user and its account say of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from msgspec import Struct

from tailrace.connector import Finding
from tailrace_nats.check.stream import SMALL
from tailrace_nats.connection import Connection
from tailrace_nats.settings import FAST_SINCE

_NEARLY_FULL = 0.8


class Limits(Struct, frozen=True):
    """-1 is no limit."""

    max_storage: int = -1
    max_streams: int = -1


class Account(Struct, frozen=True):
    """JetStream's answer on the account."""

    storage: int = 0
    streams: int = 0
    limits: Limits = Limits()


def server(connection: Connection) -> Iterator[Finding]:
    name, version = str(connection.server), connection.version
    yield Finding("ok", "server", f"{name}, version {version[0]}.{version[1]}")
    yield encryption(name, connection.address, encrypted=connection.encrypted)
    yield payload(connection.max_payload)


def encryption(name: str, address: str, *, encrypted: bool) -> Finding:
    """Whether anybody can listen on the way to the server `name` at that IP address."""
    if encrypted:
        return Finding("ok", "TLS", f"the connection to {name} is encrypted")
    if ip_address(address).is_loopback:
        return Finding("ok", "TLS", "not used; the server is on this machine")
    text = f"not used: anybody on the way to {name} can read along"
    mend = "give the server a certificate, and set sink.tls.required=true"
    return Finding("warning", "TLS", text, mend)


def payload(limit: int) -> Finding:
    if limit >= SMALL:
        return Finding("ok", "max_payload", f"{limit:,} bytes")
    text = f"{limit:,} bytes: a larger event is refused, and stops the pipeline"
    mend = "max_payload: 1MB in the server's configuration; nats-server --signal reload"
    return Finding("warning", "max_payload", text, mend)


def fast_ingest(version: tuple[int, int]) -> Iterator[Finding]:
    if version < FAST_SINCE:
        text = f"version {version[0]}.{version[1]} has none: each event is acknowledged by itself"
        yield Finding("warning", "fast ingest", text, "update nats-server to 2.14 or newer")


def account(found: Account, *, makes_stream: bool) -> Iterator[Finding]:
    limits = found.limits
    if makes_stream and 0 <= limits.max_streams <= found.streams:
        text = f"the account has {found.streams} of {limits.max_streams}, and needs one more"
        mend = "raise max_streams of the account, or use a stream that is there: sink.stream=NAME"
        yield Finding("error", "streams", text, mend)
    if limits.max_storage <= 0:
        yield Finding("ok", "account", f"{found.storage:,} bytes stored, no limit of its own")
        return
    used = found.storage / limits.max_storage
    text = f"{limits.max_storage:,} bytes of storage, {used:.0%} used"
    if used < _NEARLY_FULL:
        yield Finding("ok", "account", text)
    else:
        text += ": once they are used up, the pipeline waits"
        yield Finding("warning", "account", text, "raise max_store of the account")
