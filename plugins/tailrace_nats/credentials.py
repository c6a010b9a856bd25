"""Who we are to the server, and how we know who it is."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from tailrace.errors import ConfigError
from tailrace_nats.config import NatsConfig, Server

_MARKS = ("BEGIN NATS USER JWT", "BEGIN USER NKEY SEED")
_KEYS = "sink.user and sink.password, sink.token, sink.creds or sink.nkey"


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
    if config.nkey is not None:
        return {"nkeys_seed": str(config.nkey)}
    return {"user_credentials": str(config.creds)} if config.creds is not None else {}


def key_of(server: Server, config: NatsConfig) -> str:
    """The key that `credentials` for `server` come from; '' without any."""
    if server.user is not None:
        return "sink.url"
    given = {"sink.user and sink.password": config.user, "sink.token": config.token}
    files = {"sink.creds": config.creds, "sink.nkey": config.nkey}
    return next((key for key, value in {**given, **files}.items() if value is not None), "")


def refused(text: str, server: Server, config: NatsConfig) -> ConfigError:
    """The server does not let us in."""
    key = key_of(server, config)
    if not key:
        return ConfigError(
            f"sink.url: {server} wants credentials: {text}", mend=f"set one of {_KEYS}"
        )
    return ConfigError(
        f"{key}: {server} refuses the credentials: {text}",
        mend=f"set {key} to what the server expects, or another of {_KEYS}",
    )


def check_creds(file: Path | None) -> None:
    """ConfigError for what is no credentials file: nats-py would read it for ever."""
    if file is not None and not all(mark in _read("sink.creds", file) for mark in _MARKS):
        raise ConfigError(
            f"sink.creds: {file} is not a credentials file",
            mend="make one with: nsc generate creds --account ACCOUNT --name USER",
        )


def check_nkey(file: Path | None) -> None:
    """ConfigError for what does not hold a user's seed."""
    if file is not None and not _is_user_seed(_read("sink.nkey", file).strip()):
        raise ConfigError(
            f"sink.nkey: {file} does not hold the seed of a user",
            mend="the file holds one line that begins with SU; make one with: nk -gen user",
        )


def _read(key: str, file: Path) -> str:
    try:
        return file.read_text("ascii", "replace")
    except OSError as error:
        raise ConfigError(
            f"{key}: {file} cannot be read: {error.strerror}",
            mend="let the user that runs cdc read the file",
        ) from error


def _is_user_seed(text: str) -> bool:
    import nkeys  # type: ignore[import-untyped]

    try:
        nkeys.from_seed(bytearray(text.encode()))
    except Exception:
        return False
    return text.startswith("SU")


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
