"""The commands that are measured, and how each one's delivery is counted."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from pathlib import Path

from benchmarks import broker
from benchmarks.children import Child, Usage
from benchmarks.database import Database
from benchmarks.plan import Case
from tailrace_demo.servers import Nats

STREAM = "bench"
_HOURS = 3600.0


def cdc(
    database: Database, table: str, slot: str, folder: Path, *words: str, snapshot: str = "never"
) -> list[str]:
    """``cdc run`` over one table, as a user starts it, with a checkpoint of its own."""
    checkpoint = folder / "cdc.db"
    for path in folder.glob("cdc.db*"):
        path.unlink()
    command = [sys.executable, "-m", "tailrace", "run", "source=postgres", *words]
    command += [f"source.dsn={database.dsn}", f"source.tables=public.{table}"]
    command += [f"source.slot={slot}", f"source.publication={table}", f"snapshot={snapshot}"]
    return [*command, f"checkpoint=sqlite:{checkpoint}", f"name={STREAM}"]


def to_nats(nats: Nats) -> tuple[str, ...]:
    return "sink=nats", f"sink.url={nats.url}"


class Contender(ABC):
    """A program that streams a table's changes from a slot and then ends."""

    name: str

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder

    def takes(self, case: Case) -> bool:
        """Whether it is measured over `case`."""
        return True

    def prepare(self, table: str) -> None:
        """Called once for each table, before its first row."""

    def run(self, table: str, slot: str) -> Usage:
        """Once, from the start of its process to its end."""
        with Child(self.command(table, slot), self.folder / f"{self.name}.log") as child:
            return child.wait(_HOURS)

    @abstractmethod
    def command(self, table: str, slot: str) -> list[str]: ...

    def delivered(self) -> int | None:
        """Events that the last run has delivered; None where nobody can tell. Clears them away."""
        return None


class RecvLogical(Contender):
    """PostgreSQL's own client, to /dev/null: the pace of the server."""

    name = "pg_recvlogical"

    def command(self, table: str, slot: str) -> list[str]:
        command = [str(self.database.program("pg_recvlogical")), "-d", self.database.dsn, "--start"]
        command += ["-S", slot, "-f", "/dev/null", "--no-loop", "--endpos", self.database.end()]
        return [*command, "-o", "proto_version=1", "-o", f"publication_names={table}"]


class Copy(Contender):
    """psql and COPY, to /dev/null: the pace at which the server gives rows that are there."""

    name = "COPY by psql"

    def command(self, table: str, slot: str) -> list[str]:
        command = [str(self.database.program("psql")), "-d", self.database.dsn, "-o", "/dev/null"]
        return [*command, "-c", f"COPY {table} TO STDOUT"]


class ToFile(Contender):
    name = "file"
    words: tuple[str, ...] = ("--once",)
    snapshot = "never"

    @property
    def _path(self) -> Path:
        return self.folder / "events.jsonl"

    def command(self, table: str, slot: str) -> list[str]:
        words = (*self.words, "sink=file", f"sink.path={self._path}")
        return cdc(self.database, table, slot, self.folder, *words, snapshot=self.snapshot)

    def delivered(self) -> int:
        if not self._path.exists():
            return 0
        with self._path.open("rb") as file:
            lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
        self._path.unlink()
        return lines


class BackfillToFile(ToFile):
    name = "backfill"
    words = ()
    snapshot = "only"


class ToNats(Contender):
    name = "nats"
    words: tuple[str, ...] = ()

    def __init__(self, database: Database, folder: Path, nats: Nats) -> None:
        super().__init__(database, folder)
        self._nats = nats

    def command(self, table: str, slot: str) -> list[str]:
        words = ("--once", *to_nats(self._nats), *self.words)
        return cdc(self.database, table, slot, self.folder, *words)

    def delivered(self) -> int:
        found = broker.count(self._nats.url, STREAM)
        broker.delete(self._nats.url, STREAM)
        return found


class ToNatsAtomic(ToNats):
    """One database transaction is one atomic batch of the stream."""

    name = "atomic"
    words = ("sink.atomic=true",)

    def takes(self, case: Case) -> bool:
        return case.per_transaction == 100
