"""Where the stream may be cut into batches: anywhere, or between transactions only."""

from __future__ import annotations

from msgspec import Struct

from tailrace.connector import Setup
from tailrace.event import Event, Transaction
from tailrace_postgres.lsn import Place


class Cut(Struct, frozen=True):
    """The events of a batch, their payload in bytes, and the place after them."""

    events: list[Event]
    size: int
    place: Place


class Cutter:
    """Makes batches of what is taken from the stream.

    With `Setup.whole` the events of the transaction that is open are held back until it ends, or
    until it alone reaches a batch's limits.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._held: list[Event] = []
        self._size = 0

    @property
    def limit(self) -> int:
        """How many more events there is room for."""
        return self._setup.batch_events - len(self._held)

    @property
    def room(self) -> int:
        """For how many more bytes there is room."""
        return self._setup.batch_bytes - self._size

    def cut(
        self, events: list[Event], size: int, place: Place, transaction: Transaction | None
    ) -> Cut | None:
        """What is to be passed on; None where all of it is held back.

        `place` is where the stream stands after `events`, and `transaction` what is open there.
        """
        if not self._setup.whole:
            return Cut(events, size, place)
        self._size += size
        if self._held and self._held[0].transaction is transaction:
            self._held += events
        else:
            events = self._held + events
            ended = _ended(events, transaction)
            self._held = events[ended:]
            if ended or not events:
                return self._without_held(events[:ended], place)
        if self.limit > 0 and self.room > 0:
            return None
        events, self._held = self._held, []
        return self._without_held(events, place)

    def _without_held(self, events: list[Event], place: Place) -> Cut:
        """A row's size is not kept: the payload is shared out by number."""
        held = len(self._held)
        size = self._size
        self._size = size * held // (held + len(events)) if held else 0
        if held:
            place = Place.parse(self._held[0].position)
        return Cut(events, size - self._size, place)


def _ended(events: list[Event], transaction: Transaction | None) -> int:
    """How many of `events` come before those of `transaction`."""
    ended = len(events)
    while ended and events[ended - 1].transaction is transaction:
        ended -= 1
    return ended
