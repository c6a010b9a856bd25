"""The command as the tests run it: a process of its own, with its log in a file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import pytest

PATIENCE = 60.0


def until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Return when `condition` holds; fail if it does not in time."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


class Cdc:
    """``cdc run …`` in `folder`, over and over; `keys` as a user writes them.

    The log of all runs is in `log`.
    """

    def __init__(
        self, folder: Path, dsn: str, *keys: str, name: str = "orders", source: str = "postgres"
    ) -> None:
        self.folder = folder
        self.name = name
        self.dsn = dsn
        self.keys = [f"source={source}", f"source.dsn={dsn}", f"name={name}", *keys]
        self.log = folder / f"{name}.log"
        self.log.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self._from = 0

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def peak(self) -> int:
        """The most memory that this run has had, in bytes; 0 once it has ended. Needs /proc."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else 0

    @property
    def said(self) -> str:
        """What this run has logged so far."""
        with self.log.open("rb") as log:
            log.seek(self._from)
            return log.read().decode()

    def start(self, *arguments: str, failpoint: str = "", **environ: str) -> Self:
        """Run it in the background."""
        assert not self.running
        self._from = self.log.stat().st_size
        environ = {**os.environ, **environ}
        if failpoint:
            environ["TAILRACE_FAILPOINT"] = failpoint
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tailrace", "run", *arguments, *self.keys],
                cwd=self.folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def once(self, patience: float = PATIENCE) -> None:
        """Deliver everything that is committed now."""
        self.start("--once")
        assert self.wait(patience) == 0, self.said

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit status; fails, and shows the log, if it does not end in time."""
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end:\n{self.said}") from None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def stop(self, patience: float = PATIENCE) -> None:
        """SIGTERM; it must end well."""
        self.signal()
        assert self.wait(patience) == 0, self.said

    def until_said(self, pattern: str, patience: float = PATIENCE) -> None:
        """Wait until this run's log matches."""

        def matches() -> bool:
            found = re.search(pattern, self.said) is not None
            assert found or self.running, f"it has ended:\n{self.said}"
            return found

        until(matches, f"{pattern!r} in {self.log}", patience)

    def until_died(self, patience: float = PATIENCE) -> None:
        """Wait until a failpoint has struck."""
        assert self.wait(patience) == -signal.SIGKILL, self.said

    def until_caught_up(self, tables: Sequence[str] = (), patience: float = PATIENCE) -> None:
        """Wait until all that is committed now, and every row of `tables`, is delivered and saved.

        That a table is done is said when its last rows are on the way: before what is written then.
        """

        def has_read() -> bool:
            assert self.running, f"it has ended:\n{self.said}"
            return self.has_read(tables)

        until(has_read, f"the backfill of {', '.join(tables)}", patience)
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            [(end,)] = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchall()
            # The log must go on for the stream to pass `end`, which may lie behind a page's header.
            connection.execute("SELECT pg_logical_emit_message(true, '', '')")
            query = (
                "SELECT 1 FROM pg_replication_slots"
                " WHERE slot_name = %s AND confirmed_flush_lsn >= %s::pg_lsn"
            )

            def caught_up() -> bool:
                assert self.running, f"it has ended:\n{self.said}"
                return connection.execute(query, [self.name, end]).fetchone() is not None

            until(caught_up, f"{self.name} to catch up; it says:\n{self.said}", patience)

    def has_read(self, tables: Sequence[str]) -> bool:
        """Whether the backfill has read the last row of `tables`."""
        log = self.log.read_text()
        return all(f"public.{table} done" in log for table in tables)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
