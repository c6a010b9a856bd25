"""The event: one committed change to one row, and the batches in which events travel.

Here belongs what every source gives and every format takes. How a row's columns are held and
turned into JSON is in `row`; what a table looks like is in `schema`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NewType

from msgspec import Struct

from tailrace.row import Change
from tailrace.schema import TableSchema

Op = Literal["c", "u", "d", "r", "t", "s", "m"]
"""c create, u update, d delete, r read by a backfill, t truncate, s schema change, m message."""

OPS: tuple[Op, ...] = ("c", "u", "d", "r", "t", "s", "m")

Position = NewType("Position", str)
"""A source's resume token: printable, opaque to all but its source, may lie in a transaction."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Transaction(Struct, frozen=True, gc=False):
    """What the events of one transaction share; one object per transaction.

    `position` is where it committed (the same for all of its events), `ts` the commit time in
    microseconds since 1970 UTC.
    """

    position: Position
    ts: int
    txid: str | None = None


class Event(Struct, frozen=True, gc=False):
    """One change to one row.

    `id` is a pure function of the log (source identity, commit position, ordinal in the
    transaction), so a redelivery carries the same one.
    """

    id: str
    op: Op
    table: TableSchema
    change: Change
    transaction: Transaction
    context: dict[str, Any] | None = None

    @property
    def key(self) -> Mapping[str, Any] | None:
        """The key columns as they are after the change; None for a table without a key."""
        return self.change.key

    @property
    def before(self) -> Mapping[str, Any] | None:
        """The row before the change, as far as the log carries it."""
        return self.change.before

    @property
    def after(self) -> Mapping[str, Any] | None:
        """The row after the change; None for a delete or truncate."""
        return self.change.after

    @property
    def unavailable(self) -> tuple[str, ...]:
        """The columns that the log did not carry: of `after`, or of `before` for a delete."""
        return self.change.unavailable

    @property
    def position(self) -> Position:
        """Where the event's transaction committed."""
        return self.transaction.position

    @property
    def ts(self) -> datetime:
        """The commit time, in UTC."""
        return _EPOCH + timedelta(microseconds=self.transaction.ts)

    @property
    def txid(self) -> str | None:
        """The database's own number for the transaction."""
        return self.transaction.txid


class Batch(Struct):
    """Events in commit order, and the position from which to resume once all are durable.

    Without events it is a heartbeat: nothing to deliver, but everything up to `position` has been
    seen. `size` is the payload in bytes that the batch holds in memory. `progress` is set by the
    pipeline alone: what the backfill has read up to here.
    """

    events: list[Event]
    position: Position
    size: int = 0
    progress: Any = None
