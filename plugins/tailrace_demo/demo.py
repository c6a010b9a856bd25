"""``cdc demo``: every change of a small shop, as it reaches a NATS subscriber."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from tailrace.errors import ConfigError, TailraceError
from tailrace_demo.packages import MEND
from tailrace_demo.processes import ServerProcess
from tailrace_demo.received import Received
from tailrace_demo.screen import Screen
from tailrace_demo.shop import BURST, BURST_SQL, ROWS, Statement, busy
from tailrace_demo.stage import Stage, stage

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from psycopg import AsyncConnection

PAUSE = 0.1
WAIT_SECONDS = 60.0
INTERRUPTED = 130


def main() -> int:
    """Run the demo; gives the exit status of ``cdc``."""
    screen = Screen(Console(highlight=False))
    try:
        with _interruptible():
            screen.say("starting PostgreSQL and NATS in a temporary folder ...", "dim")
            with stage() as built:
                screen.say(f"PostgreSQL  {built.dsn}", "dim")
                screen.say(f"NATS        {built.nats.url}", "dim")
                asyncio.run(_show(built, screen))
    except KeyboardInterrupt:
        screen.say("stopped; everything is cleaned up")
        return INTERRUPTED
    except TailraceError as error:
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(str(error))
        return error.exit_status
    return 0


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, which works even where a shell has switched it off."""
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, signal.default_int_handler) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


async def _show(built: Stage, screen: Screen) -> None:
    try:
        import nats
        import psycopg
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed", mend=MEND) from error
    client = await nats.connect(built.nats.url)
    shop = await psycopg.AsyncConnection.connect(built.dsn, autocommit=True)
    try:
        play = Play(shop, screen)
        await client.subscribe("cdc.>", cb=play.take)
        await client.flush()
        with built.pipeline() as pipeline:
            await play.run(pipeline)
    finally:
        await shop.close()
        await client.close()


class Play:
    """The demo's acts: the backfill, changes one by one, a burst, the summary."""

    def __init__(self, shop: AsyncConnection, screen: Screen) -> None:
        self._shop = shop
        self._screen = screen
        self._received = Received()
        self._late: list[float] = []
        self._showing = True

    async def take(self, message: Msg) -> None:
        """The subscriber: nats-py calls it for each message."""
        self._received.take(message.data, self._showing)

    async def run(self, pipeline: ServerProcess) -> None:
        """Play it to the end; PermanentError if the pipeline ends or changes do not arrive."""
        printing = asyncio.create_task(self._print_arrivals())
        try:
            self._screen.heading("Rows that were there before")
            await self._arrived(ROWS, pipeline)
            self._screen.heading("Changes as they are committed")
            events = ROWS + await self._trade()
            await self._arrived(events, pipeline)
            self._screen.heading(f"A burst: {BURST:,} rows in one transaction")
            self._showing = False
            await self._commit((BURST_SQL, (BURST,)))
            await self._arrived(events + BURST, pipeline)
        finally:
            printing.cancel()
        self._screen.summary(self._received, self._late, BURST)

    async def _trade(self) -> int:
        """Commit the busy seconds' transactions, at a pace that can be read; how many events."""
        events = 0
        for transaction in busy():
            await self._commit(*transaction.statements)
            events += transaction.events
            await asyncio.sleep(PAUSE)
        return events

    async def _commit(self, *statements: Statement) -> None:
        async with self._shop.transaction():
            for text, parameters in statements:
                await self._shop.execute(text, parameters or None)

    async def _arrived(self, events: int, pipeline: ServerProcess) -> None:
        """Wait until that many have arrived and are printed."""
        deadline = time.monotonic() + WAIT_SECONDS
        while len(self._received) < events:
            pipeline.check()
            if time.monotonic() > deadline:
                got = f"delivered {len(self._received)} of {events} events"
                raise pipeline.failure(f"{got} in {WAIT_SECONDS:.0f} s")
            await asyncio.sleep(0.01)
        await self._received.shown.join()

    async def _print_arrivals(self) -> None:
        while True:
            arrival = await self._received.shown.get()
            if arrival.change.op != "r":
                self._late.append(arrival.late)
            self._screen.change(arrival)
            self._received.shown.task_done()
            # What has come meanwhile is received, and so timed, before the next line is printed.
            await asyncio.sleep(0)
