"""Back-off after transient errors: full jitter, capped, each said once a minute."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tailrace.errors import TransientError

log = logging.getLogger("tailrace")

T = TypeVar("T")

_BASE = 0.1
_CAP = 30.0
_SAY_AGAIN = 60.0


class Retry:
    """Counts the failures of one thing in a row. `error` is the last one, '' after a success.

    Full jitter: each wait is drawn evenly from zero to a limit that doubles up to the cap
    (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """

    def __init__(self, what: str, *, cap: float = _CAP) -> None:
        self.what = what
        self.error = ""
        self.total = 0
        self._cap = cap
        self._failures = 0
        self._said = float("-inf")

    async def wait(self, error: TransientError) -> None:
        """Say what happened unless the same was said within a minute, and wait."""
        news = error.message != self.error
        self.error = error.message
        self.total += 1
        limit = min(self._cap, _BASE * 2 ** min(self._failures, 20))
        self._failures += 1
        now = time.monotonic()
        if news or now - self._said >= _SAY_AGAIN:
            self._said = now
            mend = f" -> {error.mend}" if error.mend else ""
            log.warning("%s: %s%s; trying again", self.what, error.message, mend)
        await asyncio.sleep(random.uniform(0, limit))  # noqa: S311 - jitter, no secret

    def succeeded(self) -> None:
        if self._failures:
            log.info("%s: works again after %d failures", self.what, self._failures)
            self._failures = 0
            self.error = ""

    async def call(self, action: Callable[[], Awaitable[T]]) -> T:
        """`action`'s result; tried again for ever while it raises TransientError."""
        while True:
            try:
                result = await action()
            except TransientError as error:
                await self.wait(error)
            else:
                self.succeeded()
                return result
