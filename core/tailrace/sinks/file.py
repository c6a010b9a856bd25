"""The sink ``file``: appends one line for each message to a file."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from tailrace.config import PluginConfig
from tailrace.connector import Finding, Setup, Sink
from tailrace.errors import ConfigError, TransientError
from tailrace.event import Batch
from tailrace.findings import room
from tailrace.formats import Format

logger = logging.getLogger(__name__)

BLOCK = 64 << 10

_MEND = "Name a file of this pipeline's own in a folder that exists and may be written."


class FileConfig(PluginConfig):
    """Keys of the file sink."""

    path: Path = Field(description="File to append to; made if it is missing, its folder is not")
    fsync: bool = Field(
        True, description="Wait for the disk after each batch; without it a power cut loses events"
    )


class FileSink(Sink):
    """One pipeline's file, locked against others. Its last line is always a whole one."""

    Config = FileConfig
    capabilities: ClassVar[frozenset[str]] = frozenset({"ordered_per_key"})

    def __init__(self, config: Any, setup: Setup, format: Format) -> None:
        super().__init__(config, setup, format)
        self._thread: ThreadPoolExecutor | None = None
        self._log = _Log(config.path, fsync=config.fsync)

    async def open(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tailrace-file")
        await self._run(self._log.open)

    async def check(self) -> list[Finding]:
        return await asyncio.to_thread(lambda: list(_examine(self.config)))

    async def write(self, batch: Batch) -> None:
        if lines := self.format.lines(batch.events):
            await self._run(self._log.append, lines)

    async def close(self) -> None:
        if self._thread is None:
            return
        try:
            await self._run(self._log.close)
        finally:
            self._thread.shutdown(wait=False)
            self._thread = None

    async def _run(self, call: Any, *args: object) -> None:
        # A full or slow disk holds up a thread, not the keepalives.
        await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)


class _Log:
    """The open file. Everything here blocks and happens in the sink's one thread."""

    def __init__(self, path: Path, *, fsync: bool) -> None:
        self._path = path
        self._fsync = fsync
        self._fd = -1
        self._good: int | None = None

    def open(self) -> None:
        if os.path.exists(self._path) and not os.path.isfile(self._path):
            raise self._not_usable("it is not a regular file")
        try:
            self._fd = os.open(
                self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
            )
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._prepare()
        except BlockingIOError as error:
            raise self._not_usable("another pipeline is writing to it") from error
        except OSError as error:
            raise self._not_usable(error.strerror or str(error)) from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def append(self, data: bytes) -> None:
        try:
            if self._moved():
                self._reopen()
            self._cut_back()
            self._good = os.fstat(self._fd).st_size
            self._write(data)
            self._good = None
        except OSError as error:
            raise TransientError(
                f"sink.path: {self._path} cannot be written: {error.strerror or error}",
                mend="Make room on the disk, or mend it.",
            ) from error

    def _write(self, data: bytes) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            if self._fsync:
                os.fsync(self._fd)
        except OSError:
            # After a failed fsync too: pages that were not written count as clean from then on.
            self._cut_back()
            raise

    def _cut_back(self) -> None:
        """Undo a write that failed, so that the batch can be written again as a whole."""
        if self._good is not None:
            os.ftruncate(self._fd, self._good)
            self._good = None

    def _moved(self) -> bool:
        """Whether the path names another file by now, or none: a rotated or deleted log."""
        if self._fd < 0:
            return True
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except FileNotFoundError:
            return True

    def _reopen(self) -> None:
        self.close()
        self._good = None
        try:
            self.open()
        except ConfigError as error:
            raise TransientError(error.message, mend=error.mend) from error

    def _prepare(self) -> None:
        size = os.fstat(self._fd).st_size
        whole = _end_of_last_line(self._fd, size)
        if whole < size:
            logger.warning("%s: cut %d bytes of a torn last line", self._path, size - whole)
            os.ftruncate(self._fd, whole)
        if size == 0:
            _sync_folder(self._path.parent)

    def _not_usable(self, fault: str) -> ConfigError:
        return ConfigError(f"sink.path: {self._path} cannot be used: {fault}", mend=_MEND)


def _end_of_last_line(fd: int, size: int) -> int:
    end = size
    while end:
        start = max(0, end - BLOCK)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _examine(config: FileConfig) -> Iterator[Finding]:
    """What a start would meet with, and what may come later; makes no file."""
    path, folder = config.path, config.path.absolute().parent
    if not folder.is_dir():
        mend = f"mkdir -p {shlex.quote(str(folder))}"
        yield Finding("error", "path", f"there is no folder {folder}", mend)
        return
    if os.path.lexists(path):
        yield _file(path)
    elif os.access(folder, os.W_OK | os.X_OK):
        yield Finding("ok", "path", f"{path} is made at the first start")
    else:
        yield _refused(folder)
    yield room(folder)
    if not config.fsync:
        text = "off: a power cut loses events that count as delivered"
        yield Finding("warning", "fsync", text, "sink.fsync=true")


def _file(path: Path) -> Finding:
    if not path.is_file():
        return Finding("error", "path", f"{path} is not a regular file", _MEND)
    if not os.access(path, os.R_OK | os.W_OK):
        return _refused(path)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Shared, so that two who look are not in each other's way; given back at once.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        size = os.fstat(fd).st_size
        rest = size - _end_of_last_line(fd, size)
    except BlockingIOError:
        text = f"{path} is being written: a second pipeline is refused"
        return Finding("warning", "path", text, f"fuser -v {shlex.quote(str(path))}")
    finally:
        os.close(fd)
    if rest:
        text = f"{path} does not end with a whole line: a start cuts its last {rest} bytes"
        return Finding("warning", "path", text, f"tail -c {rest} {shlex.quote(str(path))}")
    return Finding("ok", "path", f"{path} can be written")


def _refused(path: Path) -> Finding:
    text = f"{path} may not be written by the user that runs this"
    return Finding("error", "path", text, f"chown $(id -un) {shlex.quote(str(path))}")
