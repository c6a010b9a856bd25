"""The base of stores at a far end that replaces a record only if it is still the one seen.

A read, a comparison and a conditional write take the place of a lock. What is compared is the
record's revision, which changes with every write; which epoch a revision belongs to is known, so
the fence stands as well.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod

from msgspec import Struct
from msgspec.structs import replace

from tailrace.checkpoint import Checkpoint, CheckpointStore
from tailrace.errors import ConfigError, TransientError
from tailrace.stores import fence
from tailrace.stores.encoding import damaged, digest, pack, unpack


class Record(Struct, frozen=True):
    """What is kept under a pipeline's name; `revision` 0 is nothing yet.

    A deleted checkpoint leaves a record without payload: epochs go on from there, so that a
    writer from before the deletion stays fenced when the name is used again. `writer` names the
    store object that wrote it.
    """

    epoch: int = 0
    payload: bytes | None = None
    sha256: str = ""
    writer: str = ""
    revision: int = 0

    @property
    def claimed(self) -> int:
        """The epoch of the checkpoint that is there, 0 if none is."""
        return 0 if self.payload is None else self.epoch


class RecordStore(CheckpointStore):
    """Subclasses read and write records; `where` is how their errors call the store."""

    where: str

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self._writer = secrets.token_hex(8)
        self._seen: dict[str, Record] = {}

    async def open(self) -> None:
        try:
            await self.connect()
        except TransientError as error:
            await self.close()
            raise ConfigError(f"checkpoint: {error.message}", mend=error.mend) from error
        except BaseException:
            await self.close()
            raise

    @abstractmethod
    async def connect(self) -> None:
        """Connect, and make what is missing; any TransientError is the user's to mend now."""

    @abstractmethod
    async def read(self, name: str) -> Record:
        """The record as it is now. Raises TransientError if the far end cannot be reached."""

    @abstractmethod
    async def swap(self, name: str, record: Record) -> Record | None:
        """Write `record` if ``record.revision`` is still there; durable on return.

        The record under its new revision, None if another has come first. After a TransientError
        it may be written or not.
        """

    @abstractmethod
    async def forget(self, name: str) -> None:
        """Forget the requests for `name`."""

    async def load(self, name: str) -> Checkpoint | None:
        record = await self._look(name)
        return None if record.payload is None else self._checkpoint(name, record)

    async def claim(self, name: str, checkpoint: Checkpoint) -> Checkpoint:
        while True:
            there = await self._look(name)
            if self._is_ours(there, checkpoint):
                return replace(checkpoint, epoch=there.epoch)
            fence(name, there.claimed, checkpoint.epoch)
            mine = replace(checkpoint, epoch=there.epoch + 1)
            if await self._put(name, there, mine):
                return mine

    async def save(self, name: str, checkpoint: Checkpoint) -> None:
        there = self._seen.get(name, Record())
        if there.claimed != checkpoint.epoch:
            there = await self._look(name)
        while True:
            fence(name, there.claimed, checkpoint.epoch)
            if await self._put(name, there, checkpoint):
                return
            there = await self._look(name)

    async def delete(self, name: str) -> None:
        there = await self.read(name)
        while there.payload is not None:
            gone = Record(there.epoch, revision=there.revision)
            there = await self.swap(name, gone) or await self.read(name)
        await self.forget(name)

    async def _look(self, name: str) -> Record:
        """The record; CheckpointError if what it holds cannot be used."""
        record = await self.read(name)
        if record.payload is not None:
            self._checkpoint(name, record)
        self._seen[name] = record
        return record

    async def _put(self, name: str, there: Record, checkpoint: Checkpoint) -> bool:
        payload = pack(checkpoint)
        wanted = Record(
            checkpoint.epoch, payload, digest(name, payload), self._writer, there.revision
        )
        written = await self.swap(name, wanted)
        if written is None:
            return False
        self._seen[name] = written
        return True

    def _is_ours(self, there: Record, checkpoint: Checkpoint) -> bool:
        """Whether this claim has been stored before, and only the answer was lost."""
        if there.writer != self._writer or there.claimed <= checkpoint.epoch:
            return False
        return there.payload == pack(replace(checkpoint, epoch=there.epoch))

    def _checkpoint(self, name: str, record: Record) -> Checkpoint:
        assert record.payload is not None
        checkpoint = unpack(name, record.payload, record.sha256, self.where)
        if checkpoint.epoch != record.epoch:
            raise damaged(self.where, f"the epochs stored for {name!r} differ")
        return checkpoint
