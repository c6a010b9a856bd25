"""A pipeline to NATS under a steady load: how late its events are, and what it holds in memory."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks import broker, subscriber, writer
from benchmarks.children import Child
from benchmarks.contenders import STREAM, cdc, to_nats
from benchmarks.database import Database
from benchmarks.plan import Plan
from benchmarks.results import Latency, Stall
from benchmarks.subscriber import Heard
from tailrace_demo.servers import Nats

_WARM_UP = 1
_BEFORE_STALL = 2.0
_AFTER_STALL = 3.0
_ROWS = 50
_PATIENCE = 180.0


@contextmanager
def pipeline(database: Database, nats: Nats, table: str, folder: Path) -> Iterator[Child]:
    """``cdc run`` from a new table to a new stream; it streams when it is handed out."""
    database.create(table)
    words = cdc(database, table, table, folder, *to_nats(nats))
    try:
        with Child(words, folder / f"{table}.log") as child:
            child.until(lambda: database.active(table), 60)
            yield child
    finally:
        database.remove(table)
        broker.delete(nats.url, STREAM)


def latency(database: Database, nats: Nats, plan: Plan, folder: Path) -> Latency:
    """One-row transactions at a steady pace, from the commit to a core NATS subscriber."""
    rate, seconds = plan.latency_rate, plan.latency_seconds + _WARM_UP
    table, sent = "rows_latency", rate * (plan.latency_seconds + _WARM_UP)
    listening = subscriber.command(nats.url, "cdc.>", count=sent, skip=rate * _WARM_UP)
    writing = writer.command(database.dsn, table, rate=rate, rows=1, seconds=seconds)
    with (
        pipeline(database, nats, table, folder) as running,
        Child(listening, folder / "subscriber.log") as ear,
    ):
        ear.until(lambda: "ready" in ear.log.read_text(), 30)
        _, achieved = _written(writing, folder, seconds)
        ear.wait(_PATIENCE)
        running.stop()
        heard = msgspec.json.decode(ear.log.read_text().splitlines()[-1], type=Heard)
    return Latency(rate, achieved, sent, heard.received, heard.commit, heard.write)


def stall(database: Database, nats: Nats, plan: Plan, folder: Path) -> Stall:
    """NATS is stopped in the middle of a steady load, and goes on later; nothing may be lost."""
    table, seconds = "rows_stall", _BEFORE_STALL + plan.stall_seconds + _AFTER_STALL
    writing = writer.command(
        database.dsn, table, rate=plan.stall_rate // _ROWS, rows=_ROWS, seconds=seconds
    )
    with pipeline(database, nats, table, folder) as running:
        with Child(writing, folder / "writer.log") as pen:
            time.sleep(_BEFORE_STALL)
            _stop(nats, plan.stall_seconds)
            awake = time.perf_counter()
            pen.wait(seconds + _PATIENCE)
            rows, achieved = _figures(pen)
        running.until(lambda: broker.count(nats.url, STREAM) >= rows, _PATIENCE)
        caught_up = time.perf_counter() - awake
        peak = running.stop().peak
        there = broker.keys(nats.url, STREAM)
        messages = broker.count(nats.url, STREAM)
    lost = len(set(range(1, rows + 1)) - there)
    return Stall(
        plan.stall_seconds, plan.stall_rate, achieved, rows, messages, lost, peak, caught_up
    )


def _stop(nats: Nats, seconds: float) -> None:
    os.kill(nats.pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(nats.pid, signal.SIGCONT)


def _written(command: list[str], folder: Path, seconds: float) -> tuple[int, float]:
    with Child(command, folder / "writer.log") as pen:
        pen.wait(seconds + _PATIENCE)
        return _figures(pen)


def _figures(pen: Child) -> tuple[int, float]:
    rows, achieved = pen.log.read_text().split()
    return int(rows), float(achieved)
