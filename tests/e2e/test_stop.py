"""Ends that are wanted: SIGTERM, ``--once``, and what the next start makes of them."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.command import Cdc, until
from e2e.history import History, in_file, in_stream
from jetstream import count
from servers.proxy import Proxy
from tailrace_demo.servers import Nats, Postgres

Make = Callable[..., Cdc]
GRACE = 2.0
SLACK = 8.0
"""For a machine that is busy with other tests."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_c10_stopped_when_idle(
    cdc: Make, database: str, tmp_path: Path, number: signal.Signals
) -> None:
    history, out = History(database, rows=100), tmp_path / "out.jsonl"
    history.create()
    pipeline = cdc("sink=file", f"sink.path={out}").start()
    pipeline.until_caught_up(["journal_0", "accounts_1"])
    began = time.monotonic()
    pipeline.signal(number)
    assert pipeline.wait() == 0
    assert time.monotonic() - began < SLACK


def test_c10_stopped_when_busy_and_started_again_repeats_nothing(
    cdc: Make, database: str, tmp_path: Path
) -> None:
    history, out = History(database), tmp_path / "out.jsonl"
    history.create()
    pipeline = cdc("sink=file", f"sink.path={out}", "batch.events=100", "snapshot.chunk=100")
    with history.writing():
        for _ in range(3):
            size = out.stat().st_size if out.exists() else 0
            pipeline.start()
            until_grown(out, size + 50_000)
            pipeline.stop()
    pipeline.once()
    history.truth().check(in_file(out), repeats=0)


def until_grown(path: Path, size: int) -> None:
    until(lambda: path.exists() and path.stat().st_size > size, f"{path} to grow")


@pytest.fixture
def stalled(cdc: Make, database: str, nats: Nats, proxy: Callable[[int], Proxy]) -> Cdc:
    """A pipeline with more to deliver, but the way to NATS is frozen."""
    history, way = History(database, rows=20_000, tables=1), proxy(nats.port)
    history.create()
    keys = (f"sink.url=nats://127.0.0.1:{way.port}", f"grace={GRACE}s", "batch.events=500")
    pipeline = cdc("sink=nats", *keys).start()
    until(lambda: asyncio.run(count(nats.url)) > 1_000, "the first events")
    way.freeze()
    held = -1

    def quiet() -> bool:
        nonlocal held
        before, held = held, asyncio.run(count(nats.url))
        time.sleep(0.2)
        return before == held

    until(quiet, "the stall")
    return pipeline


def test_c10_stopped_when_the_sink_is_stalled(stalled: Cdc) -> None:
    began = time.monotonic()
    stalled.signal()
    assert stalled.wait() == 0, stalled.said
    assert time.monotonic() - began < GRACE + SLACK
    assert "not everything that was read could be delivered" in stalled.said


def test_c10_a_second_signal_ends_it_at_once(cdc: Make, stalled: Cdc) -> None:
    stalled.signal()
    stalled.until_said("once more leaves at once")
    stalled.signal()
    assert stalled.wait(SLACK) == 1
    assert "not everything" not in stalled.said


def test_c10_stopped_when_the_source_is_stalled(
    cdc: Make, database: str, postgres: Postgres, proxy: Callable[[int], Proxy], tmp_path: Path
) -> None:
    history, way, out = History(database, rows=20_000), proxy(postgres.port), tmp_path / "out.jsonl"
    history.create()
    dsn = database.replace(f":{postgres.port}/", f":{way.port}/")
    keys = ("sink=file", f"sink.path={out}", f"grace={GRACE}s", "snapshot.chunk=100")
    pipeline = cdc(*keys, dsn=dsn).start()
    until_grown(out, 50_000)
    way.freeze()
    began = time.monotonic()
    pipeline.signal()
    assert pipeline.wait() == 0, pipeline.said
    # The driver first asks the server to cancel what it is doing, for 5 s and twice.
    assert time.monotonic() - began < GRACE + 10 + SLACK


@pytest.mark.parametrize("snapshot", ["initial", "never"])
def test_once_ends_on_an_idle_database(
    cdc: Make, database: str, tmp_path: Path, snapshot: str
) -> None:
    history, out = History(database, rows=300), tmp_path / "out.jsonl"
    history.create()
    pipeline = cdc("sink=file", f"sink.path={out}", f"snapshot={snapshot}")
    for _ in range(3):
        pipeline.once(2 * SLACK)
    seen = in_file(out)
    if snapshot == "never":
        assert seen == []
    else:
        history.truth().check(seen, repeats=0)


def test_once_delivers_what_was_committed_before_it_began(
    cdc: Make, database: str, nats: Nats
) -> None:
    history = History(database, rows=300)
    history.create()
    pipeline = cdc("sink=nats", f"sink.url={nats.url}")
    pipeline.once()
    for _ in range(2):
        with history.writing() as writers:
            until(lambda: all(writer.transactions > 20 for writer in writers), "changes")
        pipeline.once()
        history.truth().check(asyncio.run(in_stream(nats.url, "orders")), repeats=0)
