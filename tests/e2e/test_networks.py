"""Connections that break, hang and crawl, and servers that restart: it heals by itself."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence

import pytest

from e2e.command import Cdc, until
from e2e.faults import FAULTS, Fault
from e2e.history import History, in_stream
from jetstream import count
from servers.proxy import Proxy
from tailrace_demo.servers import Nats, Postgres

Make = Callable[..., Cdc]
ALL = ("journal_0", "journal_1", "accounts_0", "accounts_1")
LIMITS = ("batch.events=500", "snapshot.chunk=500")


@pytest.mark.parametrize("end", ["postgres", "nats"])
def test_a_spoiled_way_heals(
    cdc: Make,
    database: str,
    postgres: Postgres,
    nats: Nats,
    proxy: Callable[[int], Proxy],
    end: str,
) -> None:
    spoil(cdc, database, postgres, nats, proxy, [(end, fault, 0.4) for fault in FAULTS])


@pytest.mark.torture
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(2))
def test_spoiled_ways_heal(
    cdc: Make,
    database: str,
    postgres: Postgres,
    nats: Nats,
    proxy: Callable[[int], Proxy],
    seed: int,
) -> None:
    dice = random.Random(seed)
    faults = [
        (dice.choice(["postgres", "nats"]), dice.choice(FAULTS), dice.uniform(0.1, 2))
        for _ in range(25)
    ]
    spoil(cdc, database, postgres, nats, proxy, faults, pace=0.05, rows=30_000)


def spoil(
    cdc: Make,
    database: str,
    postgres: Postgres,
    nats: Nats,
    proxy: Callable[[int], Proxy],
    faults: Sequence[tuple[str, Fault, float]],
    *,
    pace: float = 0.02,
    rows: int = 10_000,
) -> None:
    ways = {"postgres": proxy(postgres.port), "nats": proxy(nats.port)}
    history = History(database, rows=rows, pace=pace)
    history.create()
    dsn = database.replace(f":{postgres.port}/", f":{ways['postgres'].port}/")
    pipeline = cdc("sink=nats", f"sink.url=nats://127.0.0.1:{ways['nats'].port}", *LIMITS, dsn=dsn)
    with history.writing():
        pipeline.start()
        until(lambda: asyncio.run(count(nats.url)) > 1_000, "the first events")
        for end, fault, seconds in faults:
            with fault(ways[end]):
                time.sleep(seconds)
            time.sleep(0.3)
    pipeline.until_caught_up(ALL)
    pipeline.stop()
    history.truth().check(asyncio.run(in_stream(nats.url, "orders")))


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_p01_postgres_restarts(
    cdc: Make, database: str, postgres: Postgres, nats: Nats, how: str
) -> None:
    restart(cdc, database, nats, lambda: postgres.restart(how))


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_n06_nats_restarts(cdc: Make, database: str, nats: Nats, how: str) -> None:
    def again() -> None:
        if how == "killed":
            nats.kill()
        else:
            nats.stop()
        nats.start()

    restart(cdc, database, nats, again)


def restart(cdc: Make, database: str, nats: Nats, again: Callable[[], None]) -> None:
    history = History(database, rows=10_000, pace=0.02)
    history.create()
    pipeline = cdc("sink=nats", f"sink.url={nats.url}", *LIMITS)
    with history.writing() as writers:
        pipeline.start()
        until(lambda: asyncio.run(count(nats.url)) > 1_000, "the first events")
        again()
        written = writers[0].transactions + 20
        until(lambda: writers[0].transactions > written, "the writers to go on")
    pipeline.until_caught_up(ALL)
    pipeline.stop()
    history.truth().check(asyncio.run(in_stream(nats.url, "orders")))
