"""Retries: for ever, with growing waits, and not noisy."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest

from tailrace.errors import PermanentError, TransientError
from tailrace.retry import Retry


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The limits of the waits, each of which passes at once."""
    limits: list[float] = []

    def longest(low: float, high: float) -> float:
        assert low == 0
        limits.append(high)
        return 0.0

    monkeypatch.setattr("tailrace.retry.random.uniform", longest)
    return limits


def failing(times: int, error: Exception) -> object:
    left = [times]

    async def action() -> str:
        if left[0]:
            left[0] -= 1
            raise error
        return "done"

    return action


def run(retry: Retry, action: object) -> object:
    assert callable(action)
    return asyncio.run(retry.call(action))


def test_it_tries_until_it_works(slept: list[float]) -> None:
    retry = Retry("sink")
    assert run(retry, failing(3, TransientError("down"))) == "done"
    assert (retry.total, retry.error, len(slept)) == (3, "", 3)


def test_the_limit_doubles_up_to_the_cap_and_begins_anew(slept: list[float]) -> None:
    retry = Retry("sink", cap=1.0)
    run(retry, failing(6, TransientError("down")))
    run(retry, failing(1, TransientError("down")))
    assert slept == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 0.1]


def test_a_thousand_failures_do_no_harm(slept: list[float]) -> None:
    run(Retry("sink"), failing(1000, TransientError("down")))
    assert max(slept) == 30.0


def test_other_errors_end_it(slept: list[float]) -> None:
    with pytest.raises(PermanentError):
        run(Retry("sink"), failing(1, PermanentError("no")))
    assert not slept


def test_it_says_so_once_and_when_it_works_again(
    slept: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run(Retry("sink"), failing(50, TransientError("down", mend="switch it on")))
    first, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("sink: down")
    assert "switch it on" in first
    assert last == "sink: works again after 50 failures"


def test_another_error_is_said_at_once(
    slept: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    retry = Retry("sink")

    async def failures() -> None:
        for words in ("down", "down", "no right", "no right"):
            await retry.wait(TransientError(words))

    with caplog.at_level(logging.WARNING):
        asyncio.run(failures())
    said = [record.getMessage() for record in caplog.records]
    assert said == ["sink: down; trying again", "sink: no right; trying again"]


class Clock:
    """Time that passes only while somebody sleeps; the waits that were made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        monkeypatch.setattr("tailrace.retry.time.monotonic", lambda: self.now)
        monkeypatch.setattr("tailrace.retry.asyncio.sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)


def test_c21_a_day_of_errors_is_waited_out_and_not_hammered_at(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Attempts are counted over a simulated clock: bounded, jittered, capped, and said quietly."""
    random.seed(21)
    clock, day = Clock(monkeypatch), 86_400.0
    retry = Retry("source")

    async def action() -> str:
        if clock.now < day:
            raise TransientError("down")
        return "done"

    assert run(retry, action) == "done"
    waits = clock.waits
    attempts = len(waits)
    assert retry.total == attempts
    # Evenly drawn below a cap of 30 s a wait is 15 s long on the average.
    assert day / 20 < attempts < day / 12
    assert max(waits) <= 30
    assert clock.now < day + 30, "it works again within one wait of the mending"
    assert sum(waits[:9]) < 60, "what is mended soon is noticed soon"
    assert len(set(waits)) > 0.9 * attempts, "many that fail at once must not come back at once"
    assert 15 < sum(waits[-1000:]) / 1000 * 1.2 < 21
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert day / 120 < len(warnings) <= day / 60 + 1
