"""A measured child process: its wall clock, its CPU time, its peak of resident memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

_SAMPLE = 0.02
_NO_HWM = 0


class Usage(Struct, frozen=True):
    """`cpu` is in seconds of user and system time, `peak` in bytes."""

    seconds: float
    cpu: float
    peak: int


class ChildError(Exception):
    """A child failed or took too long; the message has the end of what it said."""


class Child:
    """A program that runs from here on. Leaving the context kills it if it still runs."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command = command
        self.log = log
        self._usage: Usage | None = None
        self._peak = _NO_HWM
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CDC__")}
        if path := environment.get("PYTHONPATH"):  # the child has another folder
            parts = map(os.path.abspath, path.split(os.pathsep))
            environment["PYTHONPATH"] = os.pathsep.join(parts)
        with log.open("wb") as output:
            self._started = time.perf_counter()
            self._process = subprocess.Popen(
                command,
                cwd=log.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def wait(self, limit: float) -> Usage:
        """Wait for its good end; ChildError if that does not come within `limit` seconds."""
        killer = threading.Timer(limit, self._process.kill)
        killer.start()
        try:
            return self._reap()
        finally:
            killer.cancel()

    def stop(self, limit: float = 30) -> Usage:
        """SIGTERM, and wait for its good end."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait(limit)

    def interrupt(self, limit: float = 30) -> Usage:
        """End it whatever status it ends with; its time is until now, not until its end."""
        seconds = time.perf_counter() - self._started
        self._process.send_signal(signal.SIGINT)
        with suppress(ChildError):
            self.wait(limit)
        assert self._usage is not None
        return Usage(seconds, self._usage.cpu, self._usage.peak)

    def until(self, condition: Callable[[], bool], limit: float) -> None:
        """Return when `condition` holds; ChildError if it never does, or the child ends first."""
        deadline = time.monotonic() + limit
        while not condition():
            ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended or time.monotonic() > deadline:
                raise ChildError(f"{self._name} {'ended' if ended else 'hangs'}:\n{self._said()}")
            time.sleep(0.02)

    def _reap(self) -> Usage:
        if self._usage is None:
            _, status, used = os.wait4(self._process.pid, 0)
            seconds = time.perf_counter() - self._started
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self._ended.set()
            self._sampler.join()
            # ru_maxrss would count what the parent held when it forked.
            peak = self._peak or used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            self._usage = Usage(seconds, used.ru_utime + used.ru_stime, peak)
        if self._process.returncode != 0:
            raise ChildError(
                f"{self._name} ended with status {self._process.returncode}:\n{self._said()}"
            )
        return self._usage

    def _sample(self) -> None:
        status = Path(f"/proc/{self._process.pid}/status")
        while not self._ended.wait(_SAMPLE):
            with suppress(OSError):
                self._peak = max(self._peak, _high_water(status.read_text()))

    @property
    def _name(self) -> str:
        return Path(self.command[0]).name

    def _said(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._usage is None:
            self._process.kill()
            with suppress(ChildError, ChildProcessError):  # kill() reaps one that has ended
                self._reap()


def _high_water(status: str) -> int:
    """VmHWM in bytes; 0 for a process that has let go of its memory."""
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "")
    return int(line.split()[1]) * 1024 if line else _NO_HWM
