"""What nats-py and the server say of a connection, and what is made of it."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import nats.errors

from tailrace.errors import ConfigError, TailraceError
from tailrace_nats.answers import LostError
from tailrace_nats.config import NatsConfig, Server
from tailrace_nats.credentials import refused


def text_of(error: BaseException | None) -> str:
    """The error in words, without nats-py's name before them."""
    return (str(error) or type(error).__name__).removeprefix("nats: ") if error else "closed"


def connecting(error: Exception, server: Server, config: NatsConfig) -> TailraceError:
    """Why there is no connection to `server`."""
    text = text_of(error)
    for kind, word, made in _CONNECTING:
        if isinstance(error, kind) and word in text.lower():
            return made(text, server, config)
    return _bad_creds(type(error).__name__, server, config)


def _encryption(text: str, server: Server, config: NatsConfig) -> TailraceError:
    return ConfigError(
        f"sink.tls: no TLS connection to {server}: {text}",
        mend="set sink.tls.ca to the authority that signed the server's certificate, "
        "and sink.tls.cert if the server asks for one",
    )


def _unreachable(text: str, server: Server, config: NatsConfig) -> TailraceError:
    return LostError(f"cannot reach {server}: {text}")


def _bad_creds(text: str, server: Server, config: NatsConfig) -> TailraceError:
    return ConfigError(
        f"sink.creds: not accepted for {server}: {text}",
        mend="make a new file with: nsc generate creds --account ACCOUNT --name USER",
    )


_CONNECTING: list[
    tuple[type[Exception], str, Callable[[str, Server, NatsConfig], TailraceError]]
] = [
    (nats.errors.AuthorizationError, "", refused),
    (nats.errors.Error, "authorization", refused),
    (nats.errors.Error, "authentication", refused),
    (nats.errors.SecureConnWantedError, "", _encryption),
    (nats.errors.SecureConnRequiredError, "", _encryption),
    (nats.errors.InvalidUserCredentialsError, "", _bad_creds),
    (ssl.SSLError, "", _encryption),
    (OSError, "", _unreachable),
    (TimeoutError, "", _unreachable),
    (nats.errors.Error, "", _unreachable),
]
"""How a failure to connect reads: exception, a word in its text, and what is made of it."""


_GRANTS = [
    ("subscription", "subscribe on {inbox}.> (or set sink.inbox to what it may subscribe to)"),
    (
        '"$js.api.consumer.',
        "publish on $JS.API.CONSUMER.CREATE.NAME.>, $JS.API.CONSUMER.MSG.NEXT.NAME.> and "
        "$JS.API.CONSUMER.DELETE.NAME.>, NAME being the stream (or set sink.resume=false)",
    ),
    (
        '"$js.api.',
        "publish on $JS.API.STREAM.INFO.NAME, NAME being the stream, and where it is to be made "
        "on $JS.API.STREAM.CREATE.NAME and $JS.API.STREAM.NAMES",
    ),
    ("", "publish on all subjects that sink.subject and sink.subjects give"),
]
"""A word in the server's refusal, which is in small letters, and the right that is missing."""


def forbidden(text: str, server: Server, config: NatsConfig) -> ConfigError:
    """The server refuses a subject to our user."""
    grant = next(grant for word, grant in _GRANTS if word in text)
    return ConfigError(
        f"sink.url: {server} refuses: {text}",
        mend=f"grant the user {grant.format(inbox=config.inbox)}",
    )
