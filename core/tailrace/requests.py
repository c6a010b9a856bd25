"""Requests for a backfill: from the checkpoint store, where ``cdc backfill`` leaves them, to it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from tailrace.backfill import Backfill
from tailrace.checkpoint import BackfillRequest, CheckpointStore, TableProgress
from tailrace.retry import Retry

_INTERVAL = 1.0


class Requests:
    """Hands over what waits in the store. `kept` is the progress that the checkpoint has.

    A request is forgotten once the checkpoint knows of it, or if there is no such table; so it
    survives a crash, and a pipeline that is not running.
    """

    def __init__(self, name: str, store: CheckpointStore, backfill: Backfill, retry: Retry) -> None:
        self.kept: Mapping[str, TableProgress] = {}
        self._name = name
        self._store = store
        self._backfill = backfill
        self._retry = retry

    async def run(self) -> None:
        """Look every second; never returns."""
        while True:
            await asyncio.sleep(_INTERVAL)
            await self.look()

    async def look(self) -> None:
        asked = await self._retry.call(lambda: self._store.asked(self._name))
        settled = self._backfill.requested(asked)
        for request in asked:
            if request in settled or self._is_kept(request):
                answer = partial(self._store.answer, self._name, request.id)
                await self._retry.call(answer)

    def _is_kept(self, request: BackfillRequest) -> bool:
        progress = self.kept.get(request.table)
        return progress is not None and progress.request == request.id
