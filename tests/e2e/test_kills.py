"""SIGKILL at random moments, under load and in the backfill: nothing is lost.

``TAILRACE_SEED`` repeats a run's moments and its load, as far as machines repeat themselves.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.command import Cdc
from e2e.history import History, in_file, in_stream
from tailrace_demo.servers import Nats

Make = Callable[..., Cdc]
BATCH = 500
LIMITS = (f"batch.events={BATCH}", f"snapshot.chunk={BATCH}")


@pytest.fixture
def seed() -> str:
    """Printed, so that a failure tells it."""
    seed = os.environ.get("TAILRACE_SEED") or str(random.randrange(1 << 32))
    print(f"TAILRACE_SEED={seed}")
    return seed


def kill_often(pipeline: Cdc, history: History, kills: int, longest: float) -> None:
    """Each time after up to `longest` seconds of work; the writers stop with the last."""
    moments = random.Random(history.seed)
    with history.writing():
        for _ in range(kills):
            pipeline.start().until_said("starting at")
            time.sleep(moments.uniform(0, longest))
            pipeline.kill()


@pytest.mark.parametrize(
    ("kills", "rows"), [(20, 10_000), pytest.param(200, 100_000, marks=pytest.mark.torture)]
)
@pytest.mark.timeout(600)
def test_kill_9_at_random_points_with_nats(
    cdc: Make, database: str, nats: Nats, seed: str, kills: int, rows: int
) -> None:
    history = History(database, seed=seed, rows=rows, pace=0.05)
    history.create()
    pipeline = cdc("sink=nats", f"sink.url={nats.url}", *LIMITS)
    kill_often(pipeline, history, kills, 0.7)
    pipeline.once()
    seen = asyncio.run(in_stream(nats.url, "orders"))
    history.truth().check(seen, repeats=kills * BATCH)


@pytest.mark.parametrize("store", ["sqlite", "file"])
@pytest.mark.torture
@pytest.mark.timeout(600)
def test_kill_9_at_random_points_with_a_file(
    cdc: Make, database: str, tmp_path: Path, seed: str, store: str
) -> None:
    """Here nothing drops repeats, so their number shows: one batch for each kill at most."""
    kills, out = 60, tmp_path / "out.jsonl"
    history = History(database, seed=seed, rows=40_000, pace=0.01)
    history.create()
    (tmp_path / "file").mkdir()
    keys = (f"checkpoint={store}:{tmp_path / store}", f"sink.path={out}")
    pipeline = cdc("sink=file", *keys, *LIMITS)
    kill_often(pipeline, history, kills, 1.0)
    pipeline.once()
    history.truth().check(in_file(out), repeats=kills * BATCH)
