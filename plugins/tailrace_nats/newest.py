"""What the stream has got last: read back from its end, headers only.

An ephemeral pull consumer without acknowledgements does the reading; it is deleted at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from tailrace.errors import ConfigError, TransientError
from tailrace.event import Position
from tailrace_nats.connection import Connection
from tailrace_nats.frames import header_value
from tailrace_nats.stamp import Stamper

log = logging.getLogger("tailrace.nats")

FAR = 40_000
"""Messages among which a stamp is looked for, if there is none among fewer."""

_ID = "Nats-Msg-Id"
_IDLE = 10_000_000_000
_WIDER = 2
_UNAVAILABLE = 503


class Newest(Struct):
    """The newest ids that the stream has of a source, and the newest stamp of a pipeline."""

    ids: list[str]
    position: Position | None = None


class Reader:
    """Reads the end of a stream, as far as its subjects are of one of `shapes`."""

    def __init__(
        self, connection: Connection, stream: str, shapes: Sequence[str], stamper: Stamper
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._shapes = list(shapes)
        self._stamper = stamper
        self._prefix = f"{header_value(stamper.source)}:"

    async def read(self, count: int) -> Newest:
        """Among the newest `count` messages, or `FAR` if there is no stamp among these.

        Raises ConfigError where the stream must not be read.
        """
        info = await self._ask("STREAM.INFO", self._stream)
        newest = Newest([])
        if info["config"]["retention"] != "limits":
            log.info(
                "stream %s forgets what is consumed, so it cannot be read back what it has got",
                self._stream,
            )
            return newest
        for reach in (count, max(count, FAR)):
            newest.ids.clear()
            whole = await self._read(info["state"], reach, newest)
            if whole or newest.position is not None:
                break
        return newest

    async def _read(self, state: Mapping[str, int], reach: int, newest: Newest) -> bool:
        """Note the last `reach` messages, or some more; True if these are all that there are."""
        if not state["messages"]:
            return True

        def note(headers: Mapping[str, str]) -> None:
            if (found := headers.get(_ID, "")).startswith(self._prefix):
                newest.ids.append(found)
            newest.position = self._stamper.read(headers) or newest.position

        span = reach
        while True:
            start = max(state["first_seq"], state["last_seq"] + 1 - span)
            whole = start <= state["first_seq"]
            name, pending = await self._consumer(start)
            try:
                if whole or pending >= reach:
                    call = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{name}"
                    wanted = {"batch": pending, "no_wait": True}
                    await self._connection.fetch(call, wanted, pending, note)
                    return whole
            finally:
                gone = f"$JS.API.CONSUMER.DELETE.{self._stream}.{name}"
                await self._connection.request(gone)  # if that fails it goes by itself, in a while
            span *= _WIDER

    async def _consumer(self, start: int) -> tuple[str, int]:
        """A consumer that begins at the sequence `start`: its name, and how much it will give."""
        name = f"tailrace-{self._connection.token}-{self._connection.numbers(1)}"
        config = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start,
            "ack_policy": "none",
            "filter_subjects": self._shapes,
            "headers_only": True,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _IDLE,
        }
        wanted = {"stream_name": self._stream, "config": config, "action": "create"}
        made = await self._ask("CONSUMER.CREATE", f"{self._stream}.{name}", wanted)
        return name, int(made["num_pending"])

    async def _ask(self, call: str, about: str, payload: object = None) -> dict[str, Any]:
        answer = await self._connection.request(f"$JS.API.{call}.{about}", payload)
        if answer is None:
            raise TransientError(f"{self._connection.server} has no JetStream at the moment")
        if "error" not in answer:
            return answer
        error = answer["error"]
        text = f"the end of stream {self._stream} cannot be read: {error.get('description')}"
        if error.get("code") == _UNAVAILABLE:
            raise TransientError(text)
        raise ConfigError(
            f"sink.resume: {text} ({error.get('err_code')})",
            mend="mend what it says, or set sink.resume=false",
        )
