"""Checkpoints in an SQLite database: one row for each pipeline. The default store."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from tailrace.checkpoint import BackfillRequest, Checkpoint
from tailrace.connector import Finding
from tailrace.errors import CheckpointError, ConfigError, TailraceError, TransientError
from tailrace.findings import room
from tailrace.stores import fence
from tailrace.stores.encoding import (
    damaged,
    digest,
    newer,
    pack,
    pack_requests,
    unpack,
    unpack_requests,
)
from tailrace.stores.threaded import ThreadedStore

APPLICATION_ID = 0x74726C63
SCHEMA_VERSION = 1
BUSY_SECONDS = 5.0
SMALLEST = 512  # SQLite takes a file of fewer bytes for an empty one

# A deleted checkpoint leaves its row without payload: epochs go on from there, so that a writer
# from before the deletion stays fenced when the name is used again.
_SCHEMA = f"""
CREATE TABLE checkpoint (
    name TEXT NOT NULL PRIMARY KEY, epoch INTEGER NOT NULL, payload BLOB, sha256 TEXT
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
# It came later, and a Tailrace that does not know it may go on using the file: no new version.
_REQUESTS = """
CREATE TABLE IF NOT EXISTS request (
    number INTEGER PRIMARY KEY, pipeline TEXT NOT NULL, id TEXT NOT NULL,
    payload BLOB NOT NULL, sha256 TEXT NOT NULL, UNIQUE (pipeline, id)
)
"""
_PUT = (
    "INSERT INTO checkpoint (name, epoch, payload, sha256) VALUES (?, ?, ?, ?) ON CONFLICT (name) "
    "DO UPDATE SET epoch = excluded.epoch, payload = excluded.payload, sha256 = excluded.sha256"
)

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_NOT_USABLE = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY}
_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
} | _NOT_USABLE


class SqliteStore(ThreadedStore):
    """``sqlite:PATH``, WAL and synchronous=FULL. Several pipelines may share the file."""

    _db: sqlite3.Connection | None = None
    _inode = 0

    def _open(self) -> None:
        new = _check_path(self.location)
        with self._translated(opening=True):
            self._db = _connect(self.location)
            if new:
                os.chmod(self.location, 0o600)
            self._db.execute("PRAGMA synchronous = FULL")
            with self._transaction() as db:
                if not self._is_ours():
                    for statement in _SCHEMA.split(";"):
                        db.execute(statement)
                db.execute(_REQUESTS)
            self._enter_wal()
            self._check_integrity()
        self._inode = os.stat(self.location).st_ino

    async def made(self) -> bool:
        return not await asyncio.to_thread(_is_fresh, self.location)

    async def check(self) -> list[Finding]:
        found = await super().check()
        if found[0].level == "ok":
            found.append(await asyncio.to_thread(room, _folder(self.location)))
        return found

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _load(self, name: str) -> Checkpoint | None:
        with self._translated():
            row = self._row(name)
        if row is None or row[1] is None:
            return None
        epoch, payload, checksum = row
        if not isinstance(payload, bytes):
            raise damaged(self._where, f"the record of {name!r} is of the wrong type")
        checkpoint = unpack(name, payload, checksum, self._where)
        if checkpoint.epoch != epoch:
            raise damaged(self._where, f"the epochs stored for {name!r} differ")
        return checkpoint

    def _claim(self, name: str, checkpoint: Checkpoint) -> Checkpoint:
        with self._transaction() as db:
            row = self._row(name)
            fence(name, _epoch(row), checkpoint.epoch)
            mine = replace(checkpoint, epoch=row[0] + 1 if row else 1)
            db.execute(_PUT, _record(name, mine))
        return mine

    def _save(self, name: str, checkpoint: Checkpoint) -> None:
        self._check_place()
        with self._transaction() as db:
            fence(name, _epoch(self._row(name)), checkpoint.epoch)
            db.execute(_PUT, _record(name, checkpoint))

    def _names(self) -> list[str]:
        query = "SELECT name FROM checkpoint WHERE payload IS NOT NULL ORDER BY name"
        with self._translated():
            return [name for (name,) in self._connection.execute(query)]

    def _delete(self, name: str) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE checkpoint SET payload = NULL, sha256 = NULL WHERE name = ?", (name,)
            )
            db.execute("DELETE FROM request WHERE pipeline = ?", (name,))

    def _ask(self, name: str, request: BackfillRequest) -> None:
        self._check_place()
        payload = pack_requests([request])
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO request (pipeline, id, payload, sha256) VALUES (?, ?, ?, ?)",
                (name, request.id, payload, digest(name, payload)),
            )

    def _asked(self, name: str) -> list[BackfillRequest]:
        query = (
            "SELECT CAST(payload AS BLOB), sha256 FROM request WHERE pipeline = ? ORDER BY number"
        )
        with self._translated():
            rows = self._connection.execute(query, (name,)).fetchall()
        found = [unpack_requests(name, payload, sha, self._where) for payload, sha in rows]
        return [request for requests in found for request in requests]

    def _answer(self, name: str, request_id: str) -> None:
        self._check_place()
        with self._transaction() as db:
            db.execute("DELETE FROM request WHERE pipeline = ? AND id = ?", (name, request_id))

    @property
    def _where(self) -> str:
        return f"sqlite:{self.location}"

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise RuntimeError("the checkpoint store is not open")
        return self._db

    def _row(self, name: str) -> tuple[int, Any, Any] | None:
        query = "SELECT epoch, payload, sha256 FROM checkpoint WHERE name = ?"
        row: tuple[int, Any, Any] | None = self._connection.execute(query, (name,)).fetchone()
        return row

    def _is_ours(self) -> bool:
        """False for a database in which there is nothing yet."""
        application = self._pragma("application_id")
        version = self._pragma("user_version")
        if application == APPLICATION_ID and version > SCHEMA_VERSION:
            raise newer(self._where, version, SCHEMA_VERSION)
        if application == APPLICATION_ID and version == SCHEMA_VERSION:
            return True
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application or version or tables:
            raise CheckpointError(
                f"{self._where} is a database, but none of Tailrace's checkpoints",
                mend="Name another file: checkpoint=sqlite:PATH.",
            )
        return False

    def _enter_wal(self) -> None:
        # The change of mode does not wait for others that are just opening the file, as all else.
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _check_integrity(self) -> None:
        # A bit that flips in a name would make a checkpoint look as if it had never been there.
        (verdict,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise damaged(self._where, str(verdict))

    def _check_place(self) -> None:
        # SQLite would go on writing to a file that is gone, and call it durable.
        try:
            here = os.stat(self.location).st_ino
        except OSError:
            here = 0
        if here != self._inode:
            raise CheckpointError(
                f"{self._where} was removed or replaced while a pipeline was using it",
                mend="Put the file back and start the pipeline again.",
            )

    def _pragma(self, name: str) -> int:
        (value,) = self._connection.execute(f"PRAGMA {name}").fetchone()
        return int(value)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated():
            db = self._connection
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    @contextmanager
    def _translated(self, *, opening: bool = False) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _translate(error, self._where, opening=opening) from error


def _translate(error: sqlite3.Error, where: str, *, opening: bool) -> TailraceError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if opening and code in _NOT_USABLE:
        return _not_usable(where.removeprefix("sqlite:"), str(error))
    if code in _PASSING:
        return TransientError(
            f"the checkpoint in {where} cannot be reached: {error}",
            mend="Look for a full or read-only disk, or for a program that holds the file locked.",
        )
    if code in _DAMAGED:
        return damaged(where, str(error))
    return CheckpointError(
        f"{where} does not hold checkpoints as Tailrace writes them: {error}",
        mend="Name another file: checkpoint=sqlite:PATH.",
    )


def _not_usable(path: str, fault: str) -> ConfigError:
    return ConfigError(
        f"checkpoint: sqlite:{path} cannot be used: {fault}",
        mend="Name a file in a folder that exists and may be written: checkpoint=sqlite:PATH.",
    )


def _check_path(path: str) -> bool:
    """Whether the file is still to be made.

    It is never opened here: closing it would drop the locks of SQLite's other connections to it.
    """
    if not path or os.path.isdir(path):
        raise _not_usable(path, "a folder is no file" if path else "the path is empty")
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        return True
    except OSError as error:
        raise _not_usable(path, error.strerror or str(error)) from error
    if 0 < size < SMALLEST:
        raise damaged(f"sqlite:{path}", "the file is cut off, or no database")
    return False


def _is_fresh(path: str) -> bool:
    """Whether opening it would make it. Raises ConfigError if that could not be."""
    if not _check_path(path):
        return os.path.getsize(path) == 0
    folder = _folder(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        fault = "may not be written" if folder.exists() else "does not exist"
        raise _not_usable(path, f"its folder {fault}")
    return True


def _folder(path: str) -> Path:
    return Path(path).absolute().parent


def _connect(path: str) -> sqlite3.Connection:
    # An absolute path has no special meaning to SQLite, as ":memory:" has.
    return sqlite3.connect(Path(path).absolute(), timeout=BUSY_SECONDS, isolation_level=None)


def _epoch(row: tuple[int, Any, Any] | None) -> int:
    return 0 if row is None or row[1] is None else row[0]


def _record(name: str, checkpoint: Checkpoint) -> tuple[str, int, bytes, str]:
    payload = pack(checkpoint)
    return name, checkpoint.epoch, payload, digest(name, payload)
