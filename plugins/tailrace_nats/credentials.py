"""Who we are to the server, and how we know who it is."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from tailrace.errors import ConfigError
from tailrace_nats.config import NatsConfig, Server

_MARKS = ("BEGIN NATS USER JWT", "BEGIN USER NKEY SEED")


def credentials(server: Server, config: NatsConfig) -> dict[str, Any]:
    """nats-py's options for `server`; what stands in its address goes before the other keys."""
    if server.user is not None:
        if server.password is None:
            return {"token": server.user}
        return {"user": server.user, "password": server.password.get_secret_value()}
    if config.user is not None and config.password is not None:
        return {"user": config.user, "password": config.password.get_secret_value()}
    if config.token is not None:
        return {"token": config.token.get_secret_value()}
    return {"user_credentials": str(config.creds)} if config.creds is not None else {}


def check_creds(file: Path | None) -> None:
    """ConfigError for what is no credentials file: nats-py would read it for ever."""
    if file is None:
        return
    try:
        text = file.read_text("ascii", "replace")
    except OSError as error:
        raise ConfigError(
            f"sink.creds: {file} cannot be read: {error.strerror}",
            mend="let the user that runs cdc read the file",
        ) from error
    if not all(mark in text for mark in _MARKS):
        raise ConfigError(
            f"sink.creds: {file} is not a credentials file",
            mend="make one with: nsc generate creds --account ACCOUNT --name USER",
        )


def tls_context(config: NatsConfig) -> ssl.SSLContext | None:
    """What TLS connections are checked by; None where TLS was not asked for."""
    if not config.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=config.tls_ca)
        if config.tls_cert is not None:
            context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"sink.tls: the certificates cannot be used: {error}",
            mend="sink.tls.ca, sink.tls.cert and sink.tls.key are PEM files that belong together",
        ) from error
    return context
