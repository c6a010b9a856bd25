"""Checkpoints: the position kept for a pipeline, and what stores must promise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from msgspec import Struct

from tailrace.connector import Finding, findings_of
from tailrace.errors import PositionLostError, TailraceError
from tailrace.event import Position

VERSION = 1
"""The checkpoint's format; a store refuses a newer one by name."""


class TableProgress(Struct, frozen=True):
    """How far the backfill of one table has come.

    `started` and `ts` (microseconds since 1970 UTC) are where and when it began; they go into the
    events, so that a row read again after a crash is the same event. `after` is the last key
    delivered, as the database's own text. `where` is the condition that its rows are read by, and
    `request` the id of the request that began it, '' if none did.
    """

    started: Position
    ts: int
    after: tuple[str, ...] | None = None
    rows: int = 0
    done: bool = False
    where: str | None = None
    request: str = ""


class BackfillRequest(Struct, frozen=True):
    """Asks that a table's rows are read (again). Waits in the store until the pipeline takes it.

    `table` is the label (``schema.table``), `where` a condition in the database's own language.
    """

    id: str
    table: str
    where: str | None = None


class Checkpoint(Struct, frozen=True):
    """Everything a pipeline needs to go on. Immutable; saved whole.

    `position` is None from a pipeline's first start until its first event or heartbeat is saved.
    `tables` is the backfill's progress, by the table's label (``schema.table``).
    """

    source: str
    position: Position | None
    tables: dict[str, TableProgress] = {}
    epoch: int = 0
    version: int = VERSION


class CheckpointStore(ABC):
    """Keeps one checkpoint for each pipeline name, and the backfills that it was asked for.

    Constructors do no I/O.

    All methods may raise TransientError (disk full, locked, far end down) and CheckpointError
    (torn, newer version, not a checkpoint). A checkpoint that cannot be read is never taken for a
    missing one. A store is used from one event loop; blocking I/O goes to a thread.
    """

    def __init__(self, location: str) -> None:
        """`location` is what follows the store's name: ``sqlite:cdc.db`` gives ``cdc.db``."""
        self.location = location

    async def open(self) -> None:
        """Raises ConfigError if the store cannot be used at all (no such folder, no right)."""

    async def close(self) -> None:
        """Release files and connections."""

    @abstractmethod
    async def load(self, name: str) -> Checkpoint | None:
        """The last checkpoint saved for pipeline `name`; None if there never was one."""

    @abstractmethod
    async def claim(self, name: str, checkpoint: Checkpoint) -> Checkpoint:
        """Become the pipeline's only writer: store `checkpoint` under the next epoch, return it so.

        `checkpoint.epoch` is the epoch that was loaded (0 if there was none). If the stored epoch
        is another by now, somebody else has claimed since: FencedError, and nothing is stored.
        """

    @abstractmethod
    async def save(self, name: str, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint; on return it is durable, and a crash leaves the old or the new.

        Raises FencedError, storing nothing, unless the stored epoch is `checkpoint.epoch`.
        """

    @abstractmethod
    async def names(self) -> list[str]:
        """The pipelines that have a checkpoint here, sorted."""

    @abstractmethod
    async def delete(self, name: str) -> None:
        """Forget the pipeline's checkpoint and requests; no error if there are none.

        A writer from before the deletion stays fenced when the name is claimed again.
        """

    @abstractmethod
    async def ask(self, name: str, request: BackfillRequest) -> None:
        """Keep `request` for pipeline `name`; durable on return. The same id twice is one request.

        Anybody may ask, at any time: it needs no epoch, no checkpoint and no running pipeline.
        """

    @abstractmethod
    async def asked(self, name: str) -> list[BackfillRequest]:
        """The requests that wait, oldest first. Cheap: a running pipeline calls it every second."""

    @abstractmethod
    async def answer(self, name: str, request_id: str) -> None:
        """Forget the request; no error if it is gone."""

    async def made(self) -> bool:
        """Whether what checkpoints are kept in is there: a file, a table. If not, `open` makes it.

        Called on a store that is not open, as are `check` and `peek`. All three change nothing
        and give everything back, and this one may raise what `open` raises.
        """
        return True

    async def check(self) -> list[Finding]:
        """For ``cdc check``: whether checkpoints can be read and written here."""
        try:
            if not await self.made():
                return [Finding("ok", "store", "is made at the first start")]
            async with self:
                return [Finding("ok", "store", "can be read and written")]
        except TailraceError as error:
            return findings_of(error, "store")

    async def peek(self, name: str) -> Checkpoint | None:
        """What `load` would give."""
        if not await self.made():
            return None
        async with self:
            return await self.load(name)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def refuse_foreign(name: str, checkpoint: Checkpoint, identity: str) -> None:
    """Raises PositionLostError unless the checkpoint is of the database `identity`."""
    if checkpoint.source != identity:
        raise PositionLostError(
            f"the checkpoint of pipeline {name!r} is for {checkpoint.source}, but the database is"
            f" {identity}",
            mend="point source.dsn at the database that it is for; or begin anew with this one:"
            " on_lost=resnapshot, or another name or checkpoint",
        )
