"""A batch on its way: what is durable, what is still to be sent, what was rejected."""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.event import Event
from tailrace.formats import Message
from tailrace_nats.frames import Framer, header_ids

_HEADROOM = 1 << 16


class Outbox:
    """The messages of one batch in order. Those before `done` are durable."""

    def __init__(self, messages: Sequence[Message], again: dict[str, int]) -> None:
        """`again` counts, by id, the messages that must be stored once more (see `pubacks`)."""
        self.messages = list(messages)
        self.ids = header_ids(messages)
        self.done = 0
        self.rejected: list[tuple[Event, str]] = []
        self._again = again
        if again:
            self.ids = [f"{id}~{again[id]}" if id in again else id for id in self.ids]

    @property
    def pending(self) -> int:
        """How many messages are not durable yet."""
        return len(self.messages) - self.done

    def repeat(self, index: int) -> None:
        """The message is to be stored once more although it is stored: under another id."""
        [id] = header_ids(self.messages[index : index + 1])
        self._again[id] = self._again.get(id, 0) + 1
        self.ids[index] = f"{id}~{self._again[id]}"

    def reject(self, index: int, reason: str) -> None:
        """The message will never be taken: its events are named, and it is sent no more."""
        self.rejected += [(event, reason) for event in self.messages[index].events]
        del self.messages[index], self.ids[index]

    def reject_larger(self, framer: Framer, limit: int, reason: str) -> None:
        """Reject what is larger than the far end takes: a server cuts the connection for it."""
        suspects = [
            i
            for i in range(self.done, len(self.messages))
            if len(self.messages[i].body) > limit - _HEADROOM
        ]
        for i in reversed(suspects):
            size = framer.size(self.messages[i], self.ids[i])
            if size > limit:
                self.reject(i, f"its message has {size} bytes; {reason}")
