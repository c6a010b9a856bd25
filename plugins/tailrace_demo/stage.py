"""The demo's stage: a temporary folder, two servers, a shop, a pipeline; and its end."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tailrace.errors import ConfigError
from tailrace_demo.processes import Account, ServerProcess
from tailrace_demo.servers import Nats, Postgres
from tailrace_demo.shop import DATABASE, SCHEMA

REMOVE_SECONDS = 10.0


@dataclass(frozen=True)
class Stage:
    """Servers that run, and a shop that is open; the pipeline comes with `pipeline`."""

    folder: Path
    postgres: Postgres
    nats: Nats

    @property
    def dsn(self) -> str:
        return self.postgres.dsn.removesuffix("/postgres") + f"/{DATABASE}"

    @contextmanager
    def pipeline(self) -> Iterator[ServerProcess]:
        """``cdc run`` in a process of its own, as a user starts it."""
        words = ["run", "source=postgres", "sink=nats", f"source.dsn={self.dsn}"]
        words += [f"sink.url={self.nats.url}", f"checkpoint=sqlite:{self.folder / 'cdc.db'}"]
        process = ServerProcess(
            [sys.executable, "-m", "tailrace", *words],
            self.folder / "pipeline.log",
            Account(),
            environment={k: v for k, v in os.environ.items() if not k.startswith("CDC__")},
        )
        try:
            yield process
        finally:
            process.end(signal.SIGTERM)


@contextmanager
def stage() -> Iterator[Stage]:
    """Build it; on leaving, however that comes, no process and no file of it stays."""
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        stack.callback(_ignore_interrupts)
        nats = stack.enter_context(Nats(folder / "nats"))
        postgres = stack.enter_context(Postgres(folder / "postgres"))
        built = Stage(folder, postgres, nats)
        _open_shop(built)
        yield built


def _open_shop(built: Stage) -> None:
    import psycopg

    with psycopg.connect(built.postgres.dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE " + DATABASE)
    with psycopg.connect(built.dsn) as connection:
        connection.execute(SCHEMA)


@contextmanager
def _folder() -> Iterator[Path]:
    # Held back until its removal is certain: making a temporary folder is not undone halfway.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        folder = Path(tempfile.mkdtemp(prefix="tailrace-demo-"))
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise ConfigError(
            f"there is no temporary folder to work in: {error}",
            mend="set TMPDIR to a folder that can be written to",
        ) from error
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # The unprivileged user that PostgreSQL runs as when we are root goes through it.
        folder.chmod(0o711)
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """An interrupted initdb may still be writing for a moment."""
    deadline = time.monotonic() + REMOVE_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        with suppress(OSError):
            shutil.rmtree(folder)


def _ignore_interrupts() -> None:
    """From here on everything is being taken down; a second Ctrl-C would only leave things."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
