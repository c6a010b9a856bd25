"""The keys of the sink ``nats``."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    ByteSize,
    Field,
    FilePath,
    SecretStr,
    model_validator,
)

from tailrace.config import Duration, PluginConfig
from tailrace_nats import subjects

_STREAM = re.compile(r"[^\s.*>/\\\x00-\x1f\x7f]{1,255}")


class Server:
    """One server's address. What is printed of it never holds the user's part."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url if "://" in url else f"nats://{url}")
            host, port = parts.hostname, parts.port or 4222
        except ValueError:
            raise ValueError("not an address; write nats://host:4222") from None
        if parts.scheme not in ("nats", "tls"):
            raise ValueError("an address begins with nats:// or tls://")
        if not host or parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError("not an address; write nats://host:4222")
        self.tls = parts.scheme == "tls"
        self.address = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        self.user = unquote(parts.username) if parts.username is not None else None
        self.password = SecretStr(unquote(parts.password)) if parts.password is not None else None

    def __str__(self) -> str:
        """The address, its user's part covered."""
        covered = "***@" if self.user is not None else ""
        return self.address.replace("://", f"://{covered}", 1)

    def __repr__(self) -> str:
        return f"Server({str(self)!r})"


def _parse(urls: str) -> tuple[Server, ...]:
    servers = tuple(Server(part) for raw in urls.split(",") if (part := raw.strip()))
    if not servers:
        raise ValueError("no server is named; write nats://host:4222")
    return servers


def _addresses(value: SecretStr) -> SecretStr:
    _parse(value.get_secret_value())
    return value


def _legal_stream(value: str) -> str:
    if value and not _STREAM.fullmatch(value):
        raise ValueError("a stream's name has no spaces, dots, slashes, * or >")
    return value


def _legal_subject(value: str) -> str:
    subjects.template(value)
    return value


class NatsConfig(PluginConfig):
    """Configuration of the sink ``nats``."""

    url: Annotated[SecretStr, AfterValidator(_addresses)] = Field(
        SecretStr("nats://127.0.0.1:4222"),
        validate_default=False,  # pydantic takes no SecretStr for one where all values are text
        description="Servers, comma-separated: nats://host:4222 or tls://host:4222; "
        "user:password@ or token@ may stand before the host",
        json_schema_extra={"default_text": "nats://127.0.0.1:4222"},
    )
    mode: Literal["jetstream", "core"] = Field(
        "jetstream",
        description="jetstream: stored and acknowledged; core: for whoever listens at the moment",
    )
    stream: Annotated[str, AfterValidator(_legal_stream)] = Field(
        "",
        description="The JetStream stream that takes the events",
        json_schema_extra={"default_text": "the one that takes the subjects, else the pipeline's"},
    )
    subject: Annotated[str, AfterValidator(_legal_subject)] = Field(
        "cdc.{db}.{schema}.{table}",
        description="Subject of an event, of {name} {db} {schema} {table} {op}; what is not a "
        "letter, digit, _ or - in a name becomes %XX",
    )
    subjects: dict[str, Annotated[str, AfterValidator(_legal_subject)]] = Field(
        {},
        alias="subjects.*",
        description="Subject of the events of one table: sink.subjects.public.users=accounts",
    )
    atomic: bool = Field(
        False,
        description="Store all events of a transaction together, or none (NATS 2.12); larger "
        "ones than the server's limit of 1,000 in parts",
    )
    resume: bool = Field(
        True,
        description="At the start read back what the stream has got, so that nothing is stored "
        "twice",
    )
    create: bool = Field(True, description="Make the stream if it is missing")
    storage: Literal["file", "memory"] = Field(
        "file", description="Where the stream keeps its messages"
    )
    replicas: int = Field(
        1, ge=1, le=5, description="On how many servers of a cluster the stream is"
    )
    max_age: Duration = Field(
        0.0,
        description="How long the stream keeps a message",
        json_schema_extra={"default_text": "for ever"},
    )
    max_bytes: ByteSize | None = Field(
        None,
        gt=0,
        description="How large the stream may become; then it drops the oldest messages",
        json_schema_extra={"default_text": "unlimited"},
    )
    dedupe_window: Duration = Field(
        120.0,
        alias="dedupe.window",
        ge=0.1,
        description="How long the stream drops an event that it has already, by itself",
    )
    allow_batched: bool = Field(
        True, description="Let the stream take fast ingest, where the server has it (NATS 2.14)"
    )
    allow_atomic: bool = Field(
        False, description="Let the stream take atomic batches; sink.atomic does so, too"
    )
    user: str | None = Field(None, description="User, where it is not in url")
    password: SecretStr | None = Field(None, description="The user's password")
    token: SecretStr | None = Field(None, description="Authentication token")
    creds: FilePath | None = Field(None, description="Credentials file of a user (JWT and seed)")
    nkey: FilePath | None = Field(None, description="File with the seed of a user's nkey")
    tls_required: bool = Field(
        False,
        alias="tls.required",
        description="Refuse a connection without TLS; so do tls:// and the other tls keys",
    )
    tls_ca: FilePath | None = Field(
        None, alias="tls.ca", description="Certificates to trust (PEM), instead of the system's"
    )
    tls_cert: FilePath | None = Field(
        None, alias="tls.cert", description="Client certificate (PEM)"
    )
    tls_key: FilePath | None = Field(
        None, alias="tls.key", description="The client certificate's private key (PEM)"
    )
    connect_timeout: Duration = Field(
        5.0, alias="connect.timeout", gt=0, description="How long a server may take to answer"
    )
    ack_timeout: Duration = Field(
        10.0,
        alias="ack.timeout",
        gt=0,
        description="How long to wait for an acknowledgement before connecting anew and sending "
        "again",
    )
    window: int = Field(
        4_000,
        gt=0,
        le=100_000,
        description="Messages without an acknowledgement at most, where each has its own",
    )
    inbox: str = Field(
        "_INBOX",
        pattern=r"^[A-Za-z0-9_$-]+(\.[A-Za-z0-9_$-]+)*$",
        description="What subjects for acknowledgements begin with",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together: set both or neither")
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("tls.key needs tls.cert")
        if sum(x is not None for x in (self.user, self.token, self.creds, self.nkey)) > 1:
            raise ValueError("set one of user, token, creds and nkey")
        if self.atomic and self.mode == "core":
            raise ValueError("atomic needs mode=jetstream: only a stream takes atomic batches")
        if self.atomic and self.sets("allow_atomic") and not self.allow_atomic:
            raise ValueError("atomic needs allow_atomic: set it, or leave it out")
        if self.sets("dedupe_window") and 0 < self.max_age < self.dedupe_window:
            raise ValueError("dedupe.window cannot be longer than max_age")
        return self

    def sets(self, field: str) -> bool:
        """Whether the user has said what `field` is to be."""
        return field in self.model_fields_set

    @property
    def servers(self) -> tuple[Server, ...]:
        """The servers of `url`, in its order."""
        return _parse(self.url.get_secret_value())

    @property
    def tls(self) -> bool:
        """Whether a connection without TLS is refused."""
        files = (self.tls_ca, self.tls_cert, self.tls_key)
        return self.tls_required or any(files) or any(server.tls for server in self.servers)
