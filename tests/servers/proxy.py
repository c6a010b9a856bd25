"""A TCP proxy for tests: cuts, resets, freezes and slows the connections that go through it.

It runs in a thread of its own, so that synchronous tests can steer it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_SLICES_PER_SECOND = 20


class Proxy:
    """Listens on `port` and forwards to `upstream`, both on 127.0.0.1.

    Every method may be called from any thread but the proxy's own, and has taken effect on return.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._rate: float | None = None
        self._server: asyncio.Server | None = None
        self._carried: dict[asyncio.Task[Any], list[asyncio.StreamWriter]] = {}

    @property
    def connections(self) -> int:
        """How many clients are connected through it."""
        return len(self._carried)

    def cut(self) -> None:
        """Close both sides of every connection."""
        self._run(self._close_all(reset=False))

    def reset(self) -> None:
        """Close both sides of every connection with a RST."""
        self._run(self._close_all(reset=True))

    def freeze(self) -> None:
        """Forward nothing more, but keep the connections; new ones are taken and frozen, too."""
        self._run(self._let_flow(False))

    def thaw(self) -> None:
        """Forward what was held back, and go on."""
        self._run(self._let_flow(True))

    def slow(self, bytes_per_second: float | None) -> None:
        """Limit each direction of each connection; None lifts the limit."""
        self._rate = bytes_per_second

    def refuse(self) -> None:
        """Refuse new connections; those that are there stay."""
        self._run(self._unlisten())

    def accept(self) -> None:
        """Take connections again, on the same port."""
        self._run(self._listen())

    def start(self) -> None:
        self._thread.start()
        self._run(self._listen())

    def close(self) -> None:
        self._run(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _let_flow(self, flow: bool) -> None:
        if flow:
            self._flowing.set()
        else:
            self._flowing.clear()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _unlisten(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _close_all(self, reset: bool) -> None:
        tasks = list(self._carried)
        for task, writers in self._carried.items():
            for writer in writers:
                if reset:
                    raw: socket.socket = writer.get_extra_info("socket")
                    with suppress(OSError):  # it may have been closed just now
                        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                writer.transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _shut(self) -> None:
        await self._unlisten()
        await self._close_all(reset=False)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end; asyncio calls it in a task of its own."""
        task = asyncio.current_task()
        assert task is not None
        self._carried[task] = writers = [writer]
        pumps: list[asyncio.Task[None]] = []
        try:
            upstream, back = await asyncio.open_connection("127.0.0.1", self.upstream)
            writers.append(back)
            pumps += [
                self._loop.create_task(self._pump(reader, back)),
                self._loop.create_task(self._pump(upstream, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            del self._carried[task]
            for pump in pumps:
                pump.cancel()
            await self._close(writers)

    async def _close(self, writers: list[asyncio.StreamWriter]) -> None:
        for writer in writers:
            writer.close()
        for writer in writers:
            with suppress(OSError):
                await writer.wait_closed()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                while data:
                    await self._flowing.wait()
                    data = await self._forward(data, target)
        await self._flowing.wait()

    async def _forward(self, data: bytes, target: asyncio.StreamWriter) -> bytes:
        """Forward as much as the limit allows now, and give the rest."""
        rate = self._rate
        part = len(data) if rate is None else max(1, int(rate / _SLICES_PER_SECOND))
        target.write(data[:part])
        await target.drain()
        if rate is not None:
            await asyncio.sleep(len(data[:part]) / rate)
        return data[part:]
