"""Checkpoints as files: a folder, and in it ``<name>.json`` for each pipeline.

Beside it stand ``<name>.lock``, which its writers lock and which holds the highest epoch ever
given, ``<name>.requests`` with the backfills asked for, and for a moment ``<name>.tmp``.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec.structs import replace

from tailrace.checkpoint import BackfillRequest, Checkpoint
from tailrace.connector import Finding
from tailrace.errors import CheckpointError, ConfigError, TransientError
from tailrace.findings import room
from tailrace.stores import fence
from tailrace.stores.encoding import (
    damaged,
    damaged_requests,
    digest,
    pack,
    pack_requests,
    unpack,
    unpack_requests,
)
from tailrace.stores.threaded import ThreadedStore

LOCK_SECONDS = 5.0

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class _Sealed(msgspec.Struct):
    pipeline: str
    sha256: str
    checkpoint: msgspec.Raw


class _SealedRequests(msgspec.Struct):
    pipeline: str
    sha256: str
    requests: msgspec.Raw


class FileStore(ThreadedStore):
    """``file:FOLDER``. The folder must exist, so that a missing mount is no fresh start."""

    def _open(self) -> None:
        folder = self._folder
        if not self.location or not os.path.exists(folder):
            raise self._not_usable("there is no such folder", f"mkdir -p {folder}")
        if not os.path.isdir(folder):
            raise self._not_usable("it is not a folder", "Name a folder: checkpoint=file:FOLDER.")
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise self._not_usable("it may not be written", "Grant this user the right to it.")

    async def check(self) -> list[Finding]:
        found = await super().check()
        if found[0].level == "ok":
            found.append(await asyncio.to_thread(room, self._folder))
        return found

    def _close(self) -> None:
        pass

    def _load(self, name: str) -> Checkpoint | None:
        path = self._path(name, "json")
        data = _read(path)
        return None if data is None else _unseal(name, data, str(path))

    def _claim(self, name: str, checkpoint: Checkpoint) -> Checkpoint:
        with self._locked(name) as lock:
            self._fence(name, checkpoint)
            mine = replace(checkpoint, epoch=_next_epoch(lock, checkpoint.epoch))
            self._replace(name, "json", _seal(name, mine))
        return mine

    def _save(self, name: str, checkpoint: Checkpoint) -> None:
        with self._locked(name):
            self._fence(name, checkpoint)
            self._replace(name, "json", _seal(name, checkpoint))

    def _names(self) -> list[str]:
        try:
            return sorted(path.stem for path in self._folder.glob("*.json"))
        except OSError as error:
            raise _unreachable(self._folder, error) from error

    def _delete(self, name: str) -> None:
        with self._locked(name):
            for suffix in ("json", "requests"):
                self._path(name, suffix).unlink(missing_ok=True)
            _sync_folder(self._folder)

    def _ask(self, name: str, request: BackfillRequest) -> None:
        with self._locked(name):
            waiting = self._asked(name)
            if all(each.id != request.id for each in waiting):
                self._replace_requests(name, [*waiting, request])

    def _asked(self, name: str) -> list[BackfillRequest]:
        path = self._path(name, "requests")
        data = _read(path)
        return [] if data is None else _unseal_requests(name, data, str(path))

    def _answer(self, name: str, request_id: str) -> None:
        with self._locked(name):
            waiting = self._asked(name)
            left = [each for each in waiting if each.id != request_id]
            if left != waiting:
                self._replace_requests(name, left)

    @property
    def _folder(self) -> Path:
        return Path(self.location)

    def _path(self, name: str, suffix: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"name: {name!r} cannot be the name of a checkpoint",
                mend="Use letters, digits, '_', '.' and '-', 100 at most.",
            )
        return self._folder / f"{name}.{suffix}"

    def _fence(self, name: str, checkpoint: Checkpoint) -> None:
        stored = self._load(name)
        fence(name, stored.epoch if stored else 0, checkpoint.epoch)

    def _replace_requests(self, name: str, requests: Sequence[BackfillRequest]) -> None:
        self._replace(name, "requests", _seal_requests(name, requests))

    def _replace(self, name: str, suffix: str, data: bytes) -> None:
        temporary = self._path(name, "tmp")
        try:
            _write(temporary, data)
            temporary.replace(self._path(name, suffix))
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(self._folder)

    @contextmanager
    def _locked(self, name: str) -> Iterator[int]:
        """Hold the pipeline's lock file; what the system refuses meanwhile is a TransientError."""
        path = self._path(name, "lock")
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _lock(lock, path)
                yield lock
            finally:
                os.close(lock)
        except OSError as error:
            raise _unreachable(path.with_suffix(".json"), error) from error

    def _not_usable(self, fault: str, mend: str) -> ConfigError:
        return ConfigError(f"checkpoint: file:{self.location} cannot be used: {fault}", mend=mend)


def _lock(lock: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TransientError(
                    f"another process keeps the checkpoint locked: {path}",
                    mend="Look for a stopped instance of the same pipeline and end it.",
                ) from None
            time.sleep(0.005)


def _next_epoch(lock: int, loaded: int) -> int:
    """Higher than any given before, also across a deletion, so that old writers stay fenced."""
    noted = os.pread(lock, 20, 0)
    epoch = max(loaded, int(noted) if noted.isdigit() else 0) + 1
    # No fsync: no writer outlives a power cut.
    os.pwrite(lock, str(epoch).encode(), 0)
    return epoch


def _seal(name: str, checkpoint: Checkpoint) -> bytes:
    payload = pack(checkpoint)
    return _document(_Sealed(name, digest(name, payload), msgspec.Raw(payload)))


def _seal_requests(name: str, requests: Sequence[BackfillRequest]) -> bytes:
    payload = pack_requests(requests)
    return _document(_SealedRequests(name, digest(name, payload), msgspec.Raw(payload)))


def _document(sealed: _Sealed | _SealedRequests) -> bytes:
    return msgspec.json.encode(sealed) + b"\n"


def _unseal(name: str, data: bytes, where: str) -> Checkpoint:
    if not data:
        raise damaged(where, "the file is empty")
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
    except msgspec.ValidationError as error:
        raise CheckpointError(
            f"{where} is not a checkpoint of Tailrace: {error}",
            mend="Name another folder: checkpoint=file:FOLDER.",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged(where, f"the file is cut off or not JSON ({error})") from error
    if _document(sealed) != data:
        raise damaged(where, "the file was altered or cut off")
    if sealed.pipeline != name:
        raise damaged(where, f"it belongs to pipeline {sealed.pipeline!r}")
    return unpack(name, bytes(sealed.checkpoint), sealed.sha256, where)


def _unseal_requests(name: str, data: bytes, where: str) -> list[BackfillRequest]:
    try:
        sealed = msgspec.json.decode(data, type=_SealedRequests)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged_requests(where, str(error)) from error
    return unpack_requests(name, bytes(sealed.requests), sealed.sha256, where)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreachable(path, error) from error


def _write(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unreachable(path: Path, error: OSError) -> TransientError:
    return TransientError(
        f"the checkpoint {path} cannot be read or written: {error.strerror or error}",
        mend="Look for a full or read-only disk, or for missing rights.",
    )
