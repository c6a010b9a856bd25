"""Checkpoints that end with the process: for tests, and where nothing is to be kept."""

from __future__ import annotations

from msgspec.structs import replace

from tailrace.checkpoint import BackfillRequest, Checkpoint, CheckpointStore
from tailrace.connector import Finding
from tailrace.stores import fence


class MemoryStore(CheckpointStore):
    """``memory:``; `location` means nothing, and every store object has checkpoints of its own."""

    def __init__(self, location: str = "") -> None:
        super().__init__(location)
        self._kept: dict[str, Checkpoint] = {}
        self._epochs: dict[str, int] = {}
        self._requests: dict[str, dict[str, BackfillRequest]] = {}

    async def check(self) -> list[Finding]:
        text = "kept in the process: a restart begins anew, with a backfill of every table"
        return [Finding("warning", "store", text, "checkpoint=sqlite:PATH")]

    async def load(self, name: str) -> Checkpoint | None:
        return self._kept.get(name)

    async def claim(self, name: str, checkpoint: Checkpoint) -> Checkpoint:
        fence(name, self._epoch(name), checkpoint.epoch)
        epoch = self._epochs[name] = self._epochs.get(name, 0) + 1
        mine = self._kept[name] = replace(checkpoint, epoch=epoch)
        return mine

    async def save(self, name: str, checkpoint: Checkpoint) -> None:
        fence(name, self._epoch(name), checkpoint.epoch)
        self._kept[name] = checkpoint

    async def names(self) -> list[str]:
        return sorted(self._kept)

    async def delete(self, name: str) -> None:
        self._kept.pop(name, None)
        self._requests.pop(name, None)

    async def ask(self, name: str, request: BackfillRequest) -> None:
        self._requests.setdefault(name, {}).setdefault(request.id, request)

    async def asked(self, name: str) -> list[BackfillRequest]:
        return list(self._requests.get(name, {}).values())

    async def answer(self, name: str, request_id: str) -> None:
        self._requests.get(name, {}).pop(request_id, None)

    def _epoch(self, name: str) -> int:
        return self._kept[name].epoch if name in self._kept else 0
