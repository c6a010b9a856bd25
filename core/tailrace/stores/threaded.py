"""The base of stores whose I/O blocks: each has one thread, and all of its I/O happens there."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tailrace.checkpoint import BackfillRequest, Checkpoint, CheckpointStore

T = TypeVar("T")


class ThreadedStore(CheckpointStore):
    """Subclasses implement the contract's methods without ``async``, with a leading underscore.

    They are called one after the other in the same thread, so they need no locks and may keep a
    connection. A cancelled call may still take effect, but before any later one.
    """

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self._thread: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tailrace-checkpoint")
        try:
            await self._run(self._open)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        if self._thread is None:
            return
        try:
            await self._run(self._close)
        finally:
            self._thread.shutdown(wait=False)
            self._thread = None

    async def load(self, name: str) -> Checkpoint | None:
        return await self._run(self._load, name)

    async def claim(self, name: str, checkpoint: Checkpoint) -> Checkpoint:
        return await self._run(self._claim, name, checkpoint)

    async def save(self, name: str, checkpoint: Checkpoint) -> None:
        await self._run(self._save, name, checkpoint)

    async def names(self) -> list[str]:
        return await self._run(self._names)

    async def delete(self, name: str) -> None:
        await self._run(self._delete, name)

    async def ask(self, name: str, request: BackfillRequest) -> None:
        await self._run(self._ask, name, request)

    async def asked(self, name: str) -> list[BackfillRequest]:
        return await self._run(self._asked, name)

    async def answer(self, name: str, request_id: str) -> None:
        await self._run(self._answer, name, request_id)

    async def _run(self, call: Callable[..., T], *args: object) -> T:
        if self._thread is None:
            raise RuntimeError("the checkpoint store is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _close(self) -> None:
        """Also called after `_open` has failed."""

    @abstractmethod
    def _load(self, name: str) -> Checkpoint | None: ...

    @abstractmethod
    def _claim(self, name: str, checkpoint: Checkpoint) -> Checkpoint: ...

    @abstractmethod
    def _save(self, name: str, checkpoint: Checkpoint) -> None: ...

    @abstractmethod
    def _names(self) -> list[str]: ...

    @abstractmethod
    def _delete(self, name: str) -> None: ...

    @abstractmethod
    def _ask(self, name: str, request: BackfillRequest) -> None: ...

    @abstractmethod
    def _asked(self, name: str) -> list[BackfillRequest]: ...

    @abstractmethod
    def _answer(self, name: str, request_id: str) -> None: ...
