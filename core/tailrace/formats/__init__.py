"""Formats: an event's shape on the wire. A batch's events in, messages out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from msgspec import Struct

from tailrace.config import PluginConfig
from tailrace.event import Event


class Message(Struct, frozen=True, gc=False):
    """Bytes for the far end, and the events they stand for (usually one).

    `key` is what a partitioning sink distributes by; None unless it was asked for, or for a table
    without a key. `headers` are the format's own, beside those that a sink adds.
    """

    body: bytes
    events: Sequence[Event]
    key: bytes | None = None
    headers: Mapping[str, str] | None = None


class Format(ABC):
    """Turns events into messages. Holds no state that outlives a batch, but caches.

    `name` is the pipeline's, `connector` the source plugin's, as in the ``source`` member of the
    native format.
    """

    Config: ClassVar[type[PluginConfig]]
    content_type: ClassVar[str] = "application/octet-stream"

    def __init__(self, config: Any, *, name: str, connector: str) -> None:
        self.config = config
        self.name = name
        self.connector = connector

    @abstractmethod
    def encode(self, events: Sequence[Event], *, keyed: bool = False) -> list[Message]:
        """The messages for `events`, in their order: none, one or several for each.

        Pure: the same events give the same bytes. With `keyed` each message has its key.
        """

    def lines(self, events: Sequence[Event]) -> bytes:
        """The bodies of `encode`, each with a line break behind it.

        What a sink uses that writes lines; a format may have a shorter way to the same bytes.
        """
        bodies = [message.body for message in self.encode(events)]
        return b"\n".join([*bodies, b""]) if bodies else b""
