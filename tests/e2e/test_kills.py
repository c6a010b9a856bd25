"""SIGKILL at random moments, under load and in the backfill: nothing is lost.

``TAILRACE_SEED`` repeats a run's moments and its load, as far as machines repeat themselves.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from e2e.command import Cdc
from e2e.faults import FAULTS
from e2e.history import History, Seen, in_file, in_stream, without_repeats
from servers.proxy import Proxy
from tailrace_demo.servers import Nats, Postgres

Make = Callable[..., Cdc]
Tell = Callable[[str, object], None]
BATCH = 500
SLOW = "snapshot.chunk=10"
"""So that the backfill lasts over most of the kills."""
LONGEST = 0.6
UNREACHABLE = 2
"""The exit status where the far end refuses at the start."""


@pytest.fixture
def seed() -> str:
    """Printed, so that a failure tells it."""
    seed = os.environ.get("TAILRACE_SEED") or str(random.randrange(1 << 32))
    print(f"TAILRACE_SEED={seed}")
    return seed


class Killer:
    """Starts a pipeline and kills it, over and over; `ways`, if there are any, are spoiled."""

    def __init__(self, pipeline: Cdc, history: History, ways: Sequence[Proxy] = ()) -> None:
        self.kills = 0
        self.in_backfill = 0
        self.seconds = 0.0
        self._pipeline = pipeline
        self._history = history
        self._ways = ways
        self._dice = random.Random(history.seed)

    def kill(self, times: int) -> None:
        """The writers are at work all the time, and stop with the last kill."""
        began = time.monotonic()
        with self._history.writing():
            while self.kills < times:
                self._live()
                self._strike()
        self.seconds = time.monotonic() - began

    def _live(self) -> None:
        """From a start to some moment of it; what spoils a way may have begun before."""
        if not self._ways:
            self._work()
            return
        way, fault = self._dice.choice(self._ways), self._dice.choice(FAULTS)
        if self._dice.random() < 0.2:
            with fault(way):
                self._work(begun=False)
                self._maybe_strike()
        else:
            self._work()
            with fault(way):
                self._rest()
                self._maybe_strike()
        if self._pipeline.running:
            self._rest()

    def _work(self, *, begun: bool = True) -> None:
        self._pipeline.start()
        if begun and self._dice.random() < 0.9:
            self._pipeline.until_said("starting at")
        self._rest()

    def _rest(self) -> None:
        time.sleep(self._dice.uniform(0, LONGEST / (3 if self._ways else 1)))

    def _maybe_strike(self) -> None:
        if self._dice.random() < 0.5:
            self._strike()

    def _strike(self) -> None:
        pipeline = self._pipeline
        if pipeline.running:
            self.kills += 1
            self.in_backfill += not pipeline.has_read(self._history.names)
            pipeline.kill()
        else:
            assert pipeline.wait() < 0 or (self._ways and pipeline.wait() == UNREACHABLE), (
                pipeline.said
            )

    def told(self, seen: Sequence[Seen]) -> str:
        distinct = len(without_repeats(seen))
        return (
            f"{self.kills} kills, {self.in_backfill} of them in the backfill,"
            f" {self.seconds / self.kills:.2f} s each; {len(seen):,} events, {distinct:,} distinct,"
            f" {len(seen) - distinct:,} came again, 0 lost"
        )


MANY = pytest.mark.torture


@pytest.mark.parametrize(
    ("spoiled", "kills", "rows"),
    [
        pytest.param(False, 20, 2_000, id="20"),
        pytest.param(True, 10, 2_000, id="10 and a spoiled way"),
        pytest.param(False, 250, 20_000, id="250", marks=MANY),
        pytest.param(True, 250, 20_000, id="250 and a spoiled way", marks=MANY),
        pytest.param(True, 250, 20_000, id="250 more and a spoiled way", marks=MANY),
    ],
)
@pytest.mark.timeout(1200)
def test_kill_9_at_random_points_with_nats(
    cdc: Make,
    database: str,
    postgres: Postgres,
    nats: Nats,
    proxy: Callable[[int], Proxy],
    record_property: Tell,
    seed: str,
    spoiled: bool,
    kills: int,
    rows: int,
) -> None:
    history = History(database, seed=seed, rows=rows, pace=0.05)
    history.create()
    ways = [proxy(postgres.port), proxy(nats.port)]
    dsn = database.replace(f":{postgres.port}/", f":{ways[0].port}/")
    url = f"sink.url=nats://127.0.0.1:{ways[1].port}"
    keys = ("sink=nats", url, f"batch.events={BATCH}")
    killer = Killer(cdc(*keys, SLOW, dsn=dsn), history, ways if spoiled else ())
    killer.kill(kills)
    cdc(*keys, dsn=dsn).once(300)
    seen = asyncio.run(in_stream(nats.url, "orders"))
    history.truth().check(seen, repeats=kills * BATCH)
    record_property("told", killer.told(seen))


@pytest.mark.parametrize("store", ["sqlite", "file"])
@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_kill_9_at_random_points_with_a_file(
    cdc: Make, database: str, tmp_path: Path, record_property: Tell, seed: str, store: str
) -> None:
    """Here nothing drops repeats, so their number shows: one batch for each kill at most."""
    kills, out = 125, tmp_path / "out.jsonl"
    history = History(database, seed=seed, rows=20_000, pace=0.05)
    history.create()
    (tmp_path / "file").mkdir()
    keys = ("sink=file", f"checkpoint={store}:{tmp_path / store}", f"sink.path={out}")
    killer = Killer(cdc(*keys, f"batch.events={BATCH}", SLOW), history)
    killer.kill(kills)
    cdc(*keys).once(300)
    seen = in_file(out)
    history.truth().check(seen, repeats=kills * BATCH)
    record_property("told", killer.told(seen))
