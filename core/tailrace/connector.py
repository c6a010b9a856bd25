"""The contracts of sources and sinks. Everything else in the core is written against these.

Rules that hold for both: constructors do no I/O; ``async with`` opens and closes; all state is
rebuilt from the position; errors are those of `tailrace.errors`. The pipeline calls a connector
from one event loop. A driver that blocks gets a thread of the connector's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from msgspec import Struct

from tailrace.config import PluginConfig
from tailrace.errors import ConfigError, TailraceError
from tailrace.event import Batch, Position, Transaction
from tailrace.formats import Format
from tailrace.row import Change
from tailrace.schema import TableSchema


class Setup(Struct, frozen=True):
    """What the pipeline tells a connector about itself.

    `name` is the pipeline, `connector` its source plugin's name. A source yields batches of at
    most `batch_events` events and about `batch_bytes` bytes of payload; with `whole` no batch ends
    inside a transaction unless that alone exceeds the limits. `backfill` are patterns of the
    tables whose rows, as they are at the start, will be asked for; empty for none.
    """

    name: str
    connector: str = ""
    batch_events: int = 5_000
    batch_bytes: int = 4 << 20
    whole: bool = False
    backfill: tuple[str, ...] = ("*.*",)


class Finding(Struct, frozen=True):
    """What a check saw. `subject` is what it looked at (``wal_level``, ``public.orders``).

    An `error` keeps the pipeline from running, a `warning` will bite some day. `mend` is the
    command or the step that puts it right; ok has none.
    """

    level: Literal["ok", "warning", "error"]
    subject: str
    text: str
    mend: str | None = None


def findings_of(error: TailraceError, subject: str) -> list[Finding]:
    """Every problem that `error` carries, as a finding about `subject`."""
    problems = error.problems if isinstance(error, ConfigError) else (error,)
    return [Finding("error", subject, problem.message, problem.mend) for problem in problems]


class Connector(ABC):
    """A source or sink: opened once by the pipeline, closed once whatever happens.

    `Config` is the plugin's frozen configuration model; an instance of it is given to the
    constructor. `capabilities` declares what the plugin is able to do (docs/conformance.md).
    """

    Config: ClassVar[type[PluginConfig]]
    capabilities: ClassVar[frozenset[str]] = frozenset()

    async def open(self) -> None:
        """Connect and check what can be checked.

        Raises ConfigError for what the user must mend: host not reachable, wrong password,
        missing right, missing table. On return the connector is ready for use.
        """

    async def close(self) -> None:
        """Give everything back: tasks, threads, sockets. Called once, also after an error."""

    async def check(self) -> list[Finding]:
        """Everything about the far end that will bite, and what is well; for ``cdc check``.

        Called instead of `open`, on a connector of its own: opens what it needs, changes nothing
        at the far end, and gives everything back. What keeps it from looking further is a finding,
        too, and so is any ConfigError that `open` would raise.
        """
        try:
            await self.open()
        except ConfigError as error:
            return findings_of(error, "open")
        finally:
            await self.close()
        return [Finding("ok", "open", "can be opened")]

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class Source(Connector):
    """Reads a database's own log."""

    def __init__(self, config: Any, setup: Setup) -> None:
        self.config = config
        self.setup = setup

    @property
    @abstractmethod
    def identity(self) -> str:
        """Names the database cluster whose positions these are (``pg:7423…``). Valid once open.

        It begins every event id, and a checkpoint of another identity is refused.
        """

    async def begin(self) -> None:
        """Called before the first ``stream(None)`` of a pipeline that has no checkpoint.

        Raises PositionLostError if there is upstream what only an earlier run can have left (a
        slot under the pipeline's name): then the checkpoint is missing, not the first run.
        """

    @abstractmethod
    def stream(self, after: Position | None) -> AsyncGenerator[Batch, None]:
        """Every committed change after `after`, in commit order, in batches; endless.

        None is the beginning of a pipeline: make upstream what is needed and start from now. A
        position may lie inside a transaction, and the stream goes on with the next event of it.
        A batch is yielded as soon as nothing more is waiting to be read: one event on an idle
        database leaves at once. A batch without events is a heartbeat. While nothing relevant
        happens a heartbeat follows at least every second when the log has moved.

        Called again after a TransientError, with the position of the last batch taken. At most
        one stream is being read at a time. Closing the generator or cancelling the reader leaves
        nothing open. The server is kept alive by a task of its own, even while nobody reads.

        Raises PositionLostError before anything is delivered if `after` cannot be honoured,
        TransientError if the connection is lost, PermanentError for what will not pass.
        """

    @abstractmethod
    async def release(self, position: Position) -> None:
        """Everything up to `position` is saved: upstream may forget it. Does not wait for it.

        Called in order of positions, while the stream is being read; must not fail because the
        connection is down at the moment.
        """

    async def check_position(self, position: Position) -> Finding:
        """For ``cdc check``, on an open source: whether ``stream(position)`` can be honoured.

        `position` is the saved one, and of this source's identity. Changes nothing upstream.
        Raises PositionLostError where the stream would.
        """
        return Finding("ok", "position", f"{position} is saved")

    async def reset(self) -> None:
        """Under ``on_lost=resnapshot``: drop what is left upstream; ``stream(None)`` follows."""

    async def head(self) -> Position:
        """A position not before any change that is visible to a read now.

        While a stream is being read, a batch follows that has passed it (a heartbeat if nothing
        else), also if the stream stands there already and the log does not move.
        """
        raise NotImplementedError

    def passed(self, position: Position, mark: Position) -> bool:
        """Whether a stream that stands at `position` has given all that `mark` stands for."""
        raise NotImplementedError


class Chunk(Struct, frozen=True):
    """Rows of one table in key order. `last` is the key to go on after, None at the table's end.

    `size` is the payload in bytes. `table` is the shape the rows were read in, if it is another
    than the one asked for.
    """

    rows: Sequence[Change]
    last: tuple[str, ...] | None
    size: int = 0
    table: TableSchema | None = None


class TableStatus(Struct, frozen=True):
    """A table that can be backfilled, and about how many rows it has."""

    table: TableSchema
    rows: int


class Reading(ABC):
    """Tables as of one moment; see `BackfillSource.reading`."""

    @abstractmethod
    def shows(self, transaction: Transaction) -> bool:
        """Whether what `transaction` of the stream did is in what is read. Also after the end."""

    @abstractmethod
    def chunks(
        self, table: TableSchema, where: str | None, limit: int
    ) -> AsyncGenerator[Chunk, None]:
        """All rows of `table`, in no order, up to `limit` at a time; one table at a time.

        Nothing for a table that is gone. Raises TransientError if the connection is lost.
        """


class BackfillSource(Source):
    """A source whose existing rows the core can read (`tailrace.backfill`), without locks.

    A condition (`where`) is in the database's own language, and the user's responsibility.
    """

    @abstractmethod
    async def tables(self) -> list[TableStatus]:
        """The captured tables as they are now. A table without a key is listed all the same.

        Called every few seconds while the stream is being read. A source for which a new table is
        not captured by itself sees to that here (PostgreSQL: publishes it). When a table is
        listed, every transaction that begins from now on and changes it is in the stream.
        """

    async def prepare(self, table: TableSchema) -> None:
        """Called before the first row of `table` is read, at the pipeline's start or later.

        On return every change of it that a read from now on does not show is in the stream: a
        source in which a transaction may have begun before the table was captured waits for its
        end. Raises TransientError if the connection is lost.
        """

    @abstractmethod
    async def chunk(
        self,
        table: TableSchema,
        after_key: tuple[str, ...] | None,
        limit: int,
        where: str | None,
    ) -> Chunk:
        """Up to `limit` rows after `after_key` in key order, as of one moment.

        Keys are the database's own text, so that they can be saved and compared by the database
        alone. What the stream has already delivered when this is called is visible to the read
        (a source whose log runs ahead of visibility waits or reads again). Runs beside the
        stream. Raises TransientError if the connection is lost; then it is called again.
        """

    def reading(self, tables: Sequence[TableSchema]) -> AbstractAsyncContextManager[Reading]:
        """All of `tables`, as of the moment when the block is entered: for tables without a key.

        Runs beside the stream. Entering raises TransientError if the connection is lost. A source
        whose tables always have a key need not have it.
        """
        raise NotImplementedError

    async def estimate(self, table: TableSchema, where: str) -> int:
        """About how many rows fulfil `where`.

        Raises ConfigError for a condition that the database does not take.
        """
        return 0


class Sink(Connector):
    """Delivers batches.

    `source` is the identity of the source whose positions come with the batches; the pipeline
    sets it before `open`. A sink that stores positions stores it with them.
    """

    source: str = ""

    def __init__(self, config: Any, setup: Setup, format: Format) -> None:
        self.config = config
        self.setup = setup
        self.format = format

    @property
    def whole(self) -> bool:
        """Whether batches should hold whole transactions (`Setup.whole`). Valid before `open`."""
        return False

    @abstractmethod
    async def write(self, batch: Batch) -> None:
        """Deliver every event of the batch, and return once all of them are durable.

        Order holds per key. Never called twice at a time, never with an empty batch. After a
        TransientError the same batch is written again; what was stored already may be stored
        twice, under the same event id. Raises RejectedError for events that the far end will
        never take; all others of the batch are durable then. A cancelled write may have
        delivered any part of the batch.
        """

    async def position(self) -> Position | None:
        """For a sink that stores the position with the events: the last one stored.

        None if there is none of this pipeline and of `source`. Called after `open` where there is
        a checkpoint, and again should that turn out to be old; the newer of the two is taken.
        """
        return None

    async def peek(self) -> Position | None:
        """For ``cdc check``, on a sink that is not open: what `position` would give.

        Makes nothing, gives everything back, and may raise what `open` raises.
        """
        return None
