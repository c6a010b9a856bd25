"""From the messages of the stream to events: transactions, ordinals, what a restart skips.

Here belongs what is known between two messages: the transaction that is open, how many of its
events there were, the relations described so far. No I/O: `Assembler.take` pulls messages from a
function that it is given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from struct import Struct as Layout
from typing import Any

from tailrace.errors import PermanentError
from tailrace.event import Event, Position, Transaction
from tailrace.row import Change, Images
from tailrace.schema import TableSchema
from tailrace_postgres import pgoutput
from tailrace_postgres.changes import NewRow, OldNewRow, OldRow
from tailrace_postgres.decoder import Decoder
from tailrace_postgres.errors import MalformedMessageError
from tailrace_postgres.lsn import Place, lsn_text
from tailrace_postgres.messages import Messages
from tailrace_postgres.pgoutput import HEADER, Relation

Receive = Callable[[int], tuple[int, memoryview]]
"""libpq's ``get_copy_data``: length and data; 0 when nothing is waiting, -1 at the end."""

Consume = Callable[[], None]
"""libpq's ``consume_input``: read what has arrived, without waiting."""

_ROWS: dict[bytes, tuple[str, type[Change]]] = {
    b"IN": ("c", NewRow),
    b"UN": ("u", NewRow),
    b"UK": ("u", OldNewRow),
    b"UO": ("u", OldNewRow),
    b"DK": ("d", OldRow),
    b"DO": ("d", OldRow),
}
_CONTROL = ("no row message of a described relation",)
_ALL = 1 << 62
_PASSES = 20_000
"""Messages at most in one call of `take`: those that are skipped take their time, too."""

_LIGHT = 1_000
"""Bytes of a context up to which it does not matter that those of one `take` are not counted."""

_RELID = Layout("!I")


class Assembler:
    """Turns the stream that begins at `after` into events.

    `place` is up to where everything has been taken; it moves into a transaction event by event.
    `undescribed` is set when a relation came that `describe` must be called for before `take`
    goes on. The ids of the transactions seen are added to `xids`.
    """

    def __init__(self, identity: str, after: Place, xids: deque[int], messages: Messages) -> None:
        self.place = after
        self.undescribed: Relation | None = None
        self.drained = False
        self.ended = False
        self.keepalive: pgoutput.Keepalive | None = None
        self.received = 0
        self._identity = identity
        self._after = after
        self._xids = xids
        self._messages = messages
        self._rows: dict[bytes, tuple[Any, ...] | None] = {}
        self._tables: dict[int, TableSchema | None] = {}
        self._transaction: Any = None  # a Transaction between BEGIN and COMMIT
        self._lsn = 0
        self._prefix = ""
        self._ordinal = 0
        self._skip = 0
        self._context: dict[str, Any] | None = None
        self._weight = 0  # bytes of the context, which each event repeats
        self._stop = False

    @property
    def transaction(self) -> Transaction | None:
        """The one that is open where the stream stands."""
        found: Transaction | None = self._transaction
        return found

    def describe(self, relation: Relation, decoder: Decoder | None) -> None:
        """From here on rows of `relation` are decoded so; None for one that is not captured."""
        self.undescribed = None
        self._tables[relation.relid] = decoder.table if decoder else None
        relid = _RELID.pack(relation.relid)
        for (kind, marker), (op, change) in _ROWS.items():
            row = (op, decoder.table, decoder, change) if decoder else None
            self._rows[bytes([kind]) + relid + bytes([marker])] = row

    def take(
        self, receive: Receive, consume: Consume, events: list[Event], limit: int, room: int
    ) -> int:
        """Append to `events` what is waiting, until there are `limit` or `room` bytes are used.

        Returns the bytes of payload added. Stops early at a relation that must be described, at
        a large context, at the end of the stream and after very many messages; `drained` says that
        nothing more was waiting. This is the hot loop: one pass a message, nothing awaited.
        """
        rows, append, size = self._expected, events.append, 0
        self.drained, consumed, self._stop = False, False, False
        ordinal, skip, context = self._ordinal, self._skip, self._context
        weight = self._weight
        limit = min(limit, room // weight + 1) if weight else limit
        prefix, transaction = self._prefix, self._transaction
        for _ in range(_PASSES):
            if len(events) >= limit or size >= room:
                break
            length, data = receive(1)
            if length <= 0:
                if length == 0 and not consumed:
                    consume()
                    consumed = True
                    continue
                self.drained, self.ended = True, length < 0
                break
            consumed = False
            message = bytes(data)
            row = rows.get(message[25:31], _CONTROL)
            if row is _CONTROL:
                self._ordinal = ordinal
                size += self._control(message, events)
                ordinal, skip, context = self._ordinal, self._skip, self._context
                prefix, transaction = self._prefix, self._transaction
                if self._stop:
                    break
                rows = self._expected
                continue
            ordinal += 1
            if ordinal > skip and row is not None:
                op, table, decoder, change = row
                changed = change(decoder, message)
                append(Event(f"{prefix}{ordinal}", op, table, changed, transaction, context))
                size += length
        self._ordinal = ordinal
        if transaction is not None and ordinal > skip:
            self.place = Place(self._lsn, ordinal)
        return size + weight * len(events)

    def _control(self, message: bytes, events: list[Event]) -> int:
        kind = message[HEADER : HEADER + 1] if message[:1] == b"w" else message[:1]
        if kind == b"B":
            self._begin(pgoutput.begin(message))
        elif kind == b"C":
            self._commit(pgoutput.commit(message))
        elif kind == b"k":
            self._keepalive(pgoutput.keepalive(message))
        elif kind == b"R":
            self.undescribed = pgoutput.relation(message)
            self._stop = True
        elif kind == b"M":
            return self._message(message, events)
        elif kind == b"T" and self._transaction is not None:
            return self._truncate(pgoutput.truncate(message), events)
        elif kind in (b"I", b"U", b"D", b"T"):
            raise self._out_of_place("row message")
        elif kind not in (b"Y", b"O"):  # types are looked up in the catalog; origins are not kept
            raise PermanentError(
                f"the server sent a message of kind {kind!r} in the transaction at "
                f"{lsn_text(self._lsn)}, which this version does not know",
                mend="update tailrace; nothing was skipped",
            )
        return 0

    def _begin(self, begin: pgoutput.Begin) -> None:
        self._lsn = begin.lsn
        self._ordinal = 0
        delivered = Place(begin.lsn) < self._after
        same = begin.lsn == self._after.lsn
        self._skip = self._after.done if same else _ALL if delivered else 0
        position = Position(lsn_text(begin.lsn))
        self._prefix = f"{self._identity}:{position}:"
        self._transaction = Transaction(position, begin.ts, str(begin.xid))
        self._context, self._weight = None, 0
        self._xids.append(begin.xid)

    def _commit(self, commit: pgoutput.Commit) -> None:
        self._transaction = None
        self.place = max(self.place, Place(commit.end))

    def _keepalive(self, keepalive: pgoutput.Keepalive) -> None:
        self.keepalive = keepalive
        self.received = max(self.received, keepalive.end)
        if self._transaction is None:
            self.place = max(self.place, Place(keepalive.end))

    def _truncate(self, truncate: pgoutput.Truncate, events: list[Event]) -> int:
        size = 0
        for relid in truncate.relids:
            self._ordinal += 1
            table = self._tables.get(relid)
            if table is not None and self._ordinal > self._skip:
                event_id = f"{self._prefix}{self._ordinal}"
                change = Event(event_id, "t", table, Images(), self._transaction, self._context)
                events.append(change)
                size += HEADER
        return size

    def _message(self, data: bytes, events: list[Event]) -> int:
        message = pgoutput.logical_message(data)
        context = self._messages.context(message)
        if not message.transactional:
            return self._message_between(message, data, events)
        if self._transaction is None:
            raise self._out_of_place("transactional message")
        self._ordinal += 1
        if context is not None:
            self._context, self._weight = context, len(message.content)
            self._stop = self._weight > _LIGHT
        elif self._messages.deliver and self._ordinal > self._skip:
            change = self._messages.change(message)
            event_id = f"{self._prefix}{self._ordinal}"
            table, transaction = self._messages.table, self._transaction
            events.append(Event(event_id, "m", table, change, transaction, self._context))
            return len(data)
        return 0

    def _message_between(self, message: pgoutput.Message, data: bytes, events: list[Event]) -> int:
        """A message that belongs to no transaction stands where its record ends.

        It comes as soon as it is read, and so before the transaction in which it was written; no
        commit record can begin inside of it. An id with ordinal 0 is no row's.
        """
        if Place(message.end) <= self._after:
            return 0
        self.place = max(self.place, Place(message.end))
        if not self._messages.deliver:
            return 0
        position = Place(message.end).position()
        alone = Transaction(position, pgoutput.sent(data))
        change = self._messages.change(message)
        event_id = f"{self._identity}:{position}:0"
        events.append(Event(event_id, "m", self._messages.table, change, alone))
        return len(data)

    def _out_of_place(self, what: str) -> MalformedMessageError:
        return MalformedMessageError(
            f"the server sent a {what} out of its place, after {self.place.position()}"
        )

    @property
    def _expected(self) -> dict[bytes, tuple[Any, ...] | None]:
        """The row messages that may come now: outside of a transaction none."""
        return self._rows if self._transaction is not None else {}
