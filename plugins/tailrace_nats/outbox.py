"""A batch on its way: what is durable, what is still to be sent, what was rejected."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec.structs import replace

from tailrace.event import Event
from tailrace.formats import Message
from tailrace_nats.frames import Framer, header_ids

_HEADROOM = 1 << 16


class Outbox:
    """The messages of one batch in order. Those before `done` are durable.

    Those before `end` may be sent now; whoever sends a part moves it. The last message carries the
    `stamp` (see `stamp`) as long as nothing is rejected: a stamp vouches for the whole batch.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        again: dict[str, int],
        stamp: Mapping[str, str] | None = None,
    ) -> None:
        """`again` counts, by id, the messages that must be stored once more (see `pubacks`)."""
        self.messages = list(messages)
        self.ids = header_ids(messages)
        self.done = 0
        self.end = len(self.messages)
        self.rejected: list[tuple[Event, str]] = []
        self._again = again
        self._plain: Message | None = None
        if again:
            self.ids = [f"{id}~{again[id]}" if id in again else id for id in self.ids]
        if stamp and messages:
            self._plain = last = messages[-1]
            self.messages[-1] = replace(last, headers={**(last.headers or {}), **stamp})

    @property
    def pending(self) -> int:
        """How many messages are to be sent now."""
        return self.end - self.done

    @property
    def left(self) -> int:
        """How many messages are not durable yet."""
        return len(self.messages) - self.done

    @property
    def stamped(self) -> bool:
        """Whether the last message carries the stamp."""
        return self._plain is not None

    def all_to_send(self) -> None:
        """Everything that is left may be sent now."""
        self.end = len(self.messages)

    def repeat(self, index: int) -> None:
        """The message is to be stored once more although it is stored: under another id."""
        [id] = header_ids(self.messages[index : index + 1])
        self._again[id] = self._again.get(id, 0) + 1
        self.ids[index] = f"{id}~{self._again[id]}"

    def leave_out(self, stored: Collection[int]) -> None:
        """The messages with these indices are stored already."""
        if len(self.messages) - 1 in stored:
            self._plain = None
        kept = [i for i in range(len(self.messages)) if i not in stored]
        self.messages = [self.messages[i] for i in kept]
        self.ids = [self.ids[i] for i in kept]
        self.all_to_send()

    def reject(self, index: int, reason: str) -> None:
        """The message will never be taken: its events are named, and it is sent no more."""
        self.rejected += [(event, reason) for event in self.messages[index].events]
        self._unstamp()
        del self.messages[index], self.ids[index]
        self.end -= index < self.end

    def reject_larger(self, framer: Framer, limit: int, reason: str) -> None:
        """Reject what is larger than the far end takes: a server cuts the connection for it."""
        suspects = [
            i
            for i in range(self.done, len(self.messages))
            if len(self.messages[i].body) > limit - _HEADROOM
        ]
        for i in reversed(suspects):
            if i == len(self.messages) - 1 and framer.size(self.messages[i], self.ids[i]) > limit:
                self._unstamp()
            size = framer.size(self.messages[i], self.ids[i])
            if size > limit:
                self.reject(i, f"its message has {size} bytes; {reason}")

    def _unstamp(self) -> None:
        if self._plain is not None:
            self.messages[-1], self._plain = self._plain, None
