"""The stream that takes the events: found, made, and checked before anything is sent to it."""

from __future__ import annotations

import logging
from typing import Any

from msgspec import Struct

from tailrace.errors import ConfigError, TransientError
from tailrace.template import Template
from tailrace_nats import subjects
from tailrace_nats.config import NatsConfig
from tailrace_nats.connection import Connection

log = logging.getLogger("tailrace.nats")

NOT_FOUND = 10059
NOT_ENABLED = (10039, 10076)
OVERLAP = 10065
BATCHES_SINCE = (2, 14)
_WARMING_UP = 503


class Stream(Struct, frozen=True):
    """What must be known of a stream. `batched`: it takes fast-ingest batches."""

    name: str
    subjects: tuple[str, ...]
    batched: bool
    max_size: int | None = None

    def takes(self, shape: str) -> bool:
        """Whether a subject of this shape can reach the stream."""
        return any(subjects.overlap(shape, pattern) for pattern in self.subjects)


class Streams:
    """Finds or makes the stream of one pipeline."""

    def __init__(self, config: NatsConfig, subject: Template, pipeline: str) -> None:
        self._config = config
        self._subject = subject
        self._pipeline = pipeline
        self.name = config.stream or subjects.stream_name(pipeline)

    async def find(self, connection: Connection, *, first: bool) -> Stream:
        """The stream; made if it is missing, this is the `first` time and ``create`` says so.

        Raises ConfigError if it is missing or takes other subjects. No JetStream is a ConfigError
        the first time; later it may have been switched off for a while, by a full disk say.
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
        wanted = subjects.shapes(self._subject, self._pipeline)
        if not any(map(stream.takes, wanted)):
            more = subjects.with_added(stream.subjects, self._cover() or wanted[0])
            raise ConfigError(
                f"sink.stream: stream {stream.name} takes {', '.join(stream.subjects)}, "
                f"but events go to {wanted[0]}",
                mend=f"set sink.subject, or: nats stream edit {stream.name} "
                f"--subjects '{','.join(more)}'",
            )
        return stream

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
        cover = self._to_listen_to()
        if names := await self._takers(connection, cover):
            raise self._overlapping(cover, names)
        return None

    async def _one_that_covers(self, connection: Connection) -> dict[str, Any] | None:
        """The stream of another pipeline, say, that takes all our subjects; no second one can."""
        cover = self._cover()
        if cover is None:
            return None
        names = await self._takers(connection, cover)
        if len(names) != 1:
            return None
        own, self.name = self.name, names[0]
        found = await self._ask(connection, "INFO", None)
        taken = found.get("config", {}).get("subjects") or ()
        if any(subjects.covers(pattern, cover) for pattern in taken):
            log.info("events go to stream %s, which takes %s already", self.name, cover)
            return found
        self.name = own
        return None

    async def _takers(self, connection: Connection, cover: str) -> list[str]:
        """The streams that take subjects of `cover`."""
        answer = await connection.request("$JS.API.STREAM.NAMES", {"subject": cover})
        return (answer or {}).get("streams") or []

    def _to_listen_to(self) -> str:
        cover = self._cover()
        if cover is None:
            raise ConfigError(
                f"sink.stream: stream {self.name} is missing, and sink.subject does not say which "
                "subjects it would take, as its first part varies",
                mend=f"begin sink.subject with a word of its own, or: nats stream add {self.name}",
            )
        return cover

    async def _make(self, connection: Connection) -> dict[str, Any]:
        cover = self._to_listen_to()
        wanted: dict[str, Any] = {
            "name": self.name,
            "subjects": [cover],
            "storage": "file",
            "retention": "limits",
            "num_replicas": 1,
            "duplicate_window": round(self._config.dedupe_window * 1_000_000_000),
        }
        if connection.version >= BATCHES_SINCE:
            wanted["allow_batched"] = True
        made = await self._ask(connection, "CREATE", wanted)
        if _code(made) == OVERLAP:
            names = await self._takers(connection, cover)
            raise self._overlapping(cover, names or ["another stream"])
        return made

    def _overlapping(self, cover: str, names: list[str]) -> ConfigError:
        return ConfigError(
            f"sink.stream: a new stream {self.name} for {cover} would overlap with "
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

    def _cover(self) -> str | None:
        return subjects.to_cover(self._subject, self._pipeline)

    def _missing(self) -> ConfigError:
        cover = self._cover() or "SUBJECTS"
        return ConfigError(
            f"sink.stream: there is no stream {self.name}",
            mend=f"nats stream add {self.name} --subjects '{cover}' --defaults, "
            "or start again with sink.create=true",
        )

    def _failed(self, answer: dict[str, Any]) -> ConfigError | TransientError:
        error = answer["error"]
        text = f"{error.get('description')} ({error.get('err_code')})"
        if error.get("code") == _WARMING_UP and _code(answer) not in NOT_ENABLED:
            return TransientError(f"stream {self.name} is not to be had: {text}")
        return ConfigError(
            f"sink.stream: stream {self.name} is not to be had: {text}",
            mend=f"see what the server says: nats stream info {self.name}",
        )


def _code(answer: dict[str, Any]) -> int:
    return int(answer.get("error", {}).get("err_code", 0))


def _stream(config: dict[str, Any], connection: Connection) -> Stream:
    size = config.get("max_msg_size", -1)
    return Stream(
        name=config["name"],
        subjects=tuple(config.get("subjects") or ()),
        batched=bool(config.get("allow_batched")) and connection.version >= BATCHES_SINCE,
        max_size=size if size >= 0 else None,
    )
