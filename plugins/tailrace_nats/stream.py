"""The stream that takes the events: found, made, and checked before anything is sent to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from tailrace.errors import ConfigError, TransientError
from tailrace_nats.config import NatsConfig
from tailrace_nats.connection import Connection
from tailrace_nats.settings import ATOMIC_SINCE, FAST_SINCE, to_make
from tailrace_nats.subjects import (
    Subjects,
    covers,
    overlap,
    shapes,
    stream_name,
    to_cover,
    with_added,
)

log = logging.getLogger("tailrace.nats")

NOT_FOUND = 10059
NOT_ENABLED = (10039, 10076)
OVERLAP = 10065
_WARMING_UP = 503


class Stream(Struct, frozen=True):
    """What must be known of a stream. `batched`: it takes fast-ingest batches.

    `window` is how long it drops repeats, in seconds; `config` is all of JetStream's own.
    """

    name: str
    subjects: tuple[str, ...]
    batched: bool
    window: float
    max_size: int | None
    config: Mapping[str, Any]

    def takes(self, shape: str) -> bool:
        """Whether a subject of this shape can reach the stream."""
        return any(overlap(shape, pattern) for pattern in self.subjects)


class Streams:
    """Finds or makes the stream of one pipeline."""

    def __init__(self, config: NatsConfig, subjects: Subjects) -> None:
        self._config = config
        self._subjects = subjects
        self.name = config.stream or stream_name(subjects.name)

    async def find(self, connection: Connection, *, first: bool) -> Stream:
        """The stream; made if it is missing, this is the `first` time and ``create`` says so.

        Raises ConfigError if it is missing, takes other subjects or no atomic batches where these
        are wanted. No JetStream is a ConfigError the first time; later it may have been switched
        off for a while, by a full disk say.
        """
        try:
            found = await self._ask(connection, "INFO", None)
        except ConfigError as error:
            raise error if first else TransientError(error.message) from None
        if _code(found) == NOT_FOUND and first and not self._config.stream:
            found = await self._one_that_covers(connection) or found
        if _code(found) == NOT_FOUND:
            if not (first and self._config.create):
                raise self._missing()
            found = await self._make(connection)
        if "error" in found:
            raise self._failed(found)
        stream = _stream(found["config"], connection)
        self._check_subjects(stream)
        self._check_atomic(stream, connection)
        return stream

    def _check_subjects(self, stream: Stream) -> None:
        for key, subject in self._subjects.keys.items():
            wanted = shapes(subject, self._subjects.name)
            if not any(map(stream.takes, wanted)):
                missing = to_cover(subject, self._subjects.name) or wanted[0]
                raise ConfigError(
                    f"sink.stream: stream {stream.name} takes {', '.join(stream.subjects)}, "
                    f"but events go to {wanted[0]} ({key})",
                    mend=f"set {key}, or: nats stream edit {stream.name} "
                    f"--subjects '{','.join(with_added(stream.subjects, missing))}'",
                )

    def _check_atomic(self, stream: Stream, connection: Connection) -> None:
        if not self._config.atomic or stream.config.get("allow_atomic"):
            return
        if connection.version < ATOMIC_SINCE:
            version = ".".join(map(str, connection.version))
            raise ConfigError(
                f"sink.atomic: {connection.server} is NATS {version}, which has no atomic batches",
                mend="update the server to 2.12 or newer, or set sink.atomic=false",
            )
        raise ConfigError(
            f"sink.atomic: stream {stream.name} takes no atomic batches",
            mend=f"nats stream edit {stream.name} --allow-batch",
        )

    async def look(self, connection: Connection) -> dict[str, Any] | None:
        """What JetStream says of the stream as it is; None if `find` would make it. Makes none.

        Raises ConfigError where there is none and none could be made.
        """
        found = await self._ask(connection, "INFO", None)
        if _code(found) == NOT_FOUND and not self._config.stream:
            found = await self._one_that_covers(connection) or found
        if _code(found) != NOT_FOUND:
            if "error" in found:
                raise self._failed(found)
            return found
        if not self._config.create:
            raise self._missing()
        wanted = self._to_listen_to()
        if names := await self._takers_of(connection, wanted):
            raise self._overlapping(wanted, names)
        return None

    async def _one_that_covers(self, connection: Connection) -> dict[str, Any] | None:
        """The stream of another pipeline, say, that takes all our subjects; no second one can."""
        wanted = self._subjects.to_cover or []
        found = [await self._takers(connection, cover) for cover in wanted]
        if not found or len(names := found[0]) != 1 or any(each != names for each in found):
            return None
        own, self.name = self.name, names[0]
        info = await self._ask(connection, "INFO", None)
        taken = info.get("config", {}).get("subjects") or ()
        if all(any(covers(pattern, cover) for pattern in taken) for cover in wanted):
            log.info("events go to stream %s, which takes %s already", self.name, ", ".join(wanted))
            return info
        self.name = own
        return None

    async def _takers(self, connection: Connection, cover: str) -> list[str]:
        """The streams that take subjects of `cover`."""
        answer = await connection.request("$JS.API.STREAM.NAMES", {"subject": cover})
        return (answer or {}).get("streams") or []

    async def _takers_of(self, connection: Connection, wanted: list[str]) -> list[str]:
        found = [name for cover in wanted for name in await self._takers(connection, cover)]
        return list(dict.fromkeys(found))

    def _to_listen_to(self) -> list[str]:
        wanted = self._subjects.to_cover
        if wanted is None:
            raise ConfigError(
                f"sink.stream: stream {self.name} is missing, and sink.subject does not say which "
                "subjects it would take, as its first part varies",
                mend=f"begin sink.subject with a word of its own, or: nats stream add {self.name}",
            )
        return wanted

    async def _make(self, connection: Connection) -> dict[str, Any]:
        wanted = self._to_listen_to()
        settings = to_make(self._config, connection.version)
        config = {"name": self.name, "subjects": wanted, "retention": "limits", **settings}
        made = await self._ask(connection, "CREATE", config)
        if _code(made) == OVERLAP:
            names = await self._takers_of(connection, wanted)
            raise self._overlapping(wanted, names or ["another stream"])
        if "error" in made and isinstance(self._failed(made), ConfigError):
            raise ConfigError(
                f"sink.stream: stream {self.name} cannot be made: {_text(made)}",
                mend="mend what it says (sink.storage, sink.replicas, sink.max_bytes and their "
                "like are the stream's settings), or make the stream yourself",
            )
        return made

    def _overlapping(self, wanted: list[str], names: list[str]) -> ConfigError:
        return ConfigError(
            f"sink.stream: a new stream {self.name} for {', '.join(wanted)} would overlap with "
            f"{', '.join(names)}",
            mend=f"set sink.stream={names[0]}, or a sink.subject of its own "
            "(sink.subject=cdc.{name}.{schema}.{table})",
        )

    async def _ask(self, connection: Connection, verb: str, payload: object) -> dict[str, Any]:
        answer = await connection.request(f"$JS.API.STREAM.{verb}.{self.name}", payload)
        if answer is None:
            raise ConfigError(
                f"sink.url: {connection.server} has no JetStream",
                mend="start it with: nats-server -js, or set sink.mode=core",
            )
        return answer

    def _missing(self) -> ConfigError:
        cover = ",".join(self._subjects.to_cover or ["SUBJECTS"])
        return ConfigError(
            f"sink.stream: there is no stream {self.name}",
            mend=f"nats stream add {self.name} --subjects '{cover}' --defaults, "
            "or start again with sink.create=true",
        )

    def _failed(self, answer: dict[str, Any]) -> ConfigError | TransientError:
        text = f"stream {self.name} is not to be had: {_text(answer)}"
        if answer["error"].get("code") == _WARMING_UP and _code(answer) not in NOT_ENABLED:
            return TransientError(text)
        return ConfigError(
            f"sink.stream: {text}",
            mend=f"see what the server says: nats stream info {self.name}",
        )


def _code(answer: dict[str, Any]) -> int:
    return int(answer.get("error", {}).get("err_code", 0))


def _text(answer: dict[str, Any]) -> str:
    error = answer["error"]
    return f"{error.get('description')} ({error.get('err_code')})"


def _stream(config: dict[str, Any], connection: Connection) -> Stream:
    size = config.get("max_msg_size", -1)
    return Stream(
        name=config["name"],
        subjects=tuple(config.get("subjects") or ()),
        batched=bool(config.get("allow_batched")) and connection.version >= FAST_SINCE,
        window=config.get("duplicate_window", 0) / 1_000_000_000,
        max_size=size if size >= 0 else None,
        config=config,
    )
