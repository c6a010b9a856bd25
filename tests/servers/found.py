"""Where the tests' servers come from: an address in the environment, the packages, then PATH.

PostgreSQL 15 and pgBouncer are Debian's, installed or unpacked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import pytest

from servers.postgres15 import Postgres15
from tailrace.errors import ConfigError
from tailrace_demo.servers import Nats, Postgres

FAST = {"fsync": "off", "full_page_writes": "off", "max_prepared_transactions": "10"}
"""For servers whose processes are killed in tests, but never their machine."""

_ADDRESSES = {18: "TAILRACE_TEST_POSTGRES", 15: "TAILRACE_TEST_POSTGRES15"}
_INSTEAD = {18: range(14, 19), 16: range(16, 17)}
"""The major versions on PATH that may stand in for one of the packages."""

_NOT_OURS = "the server at {} is not ours to stop"


class GivenPostgres(Postgres):
    """The server at the address in this variable: may be used, but not stopped."""

    def __init__(self, dsn: str, variable: str) -> None:
        super().__init__(Path(), port=urlsplit(dsn).port or 5432, bin=Path("/usr/bin"))
        self._dsn = dsn
        self._variable = variable

    @property
    def dsn(self) -> str:
        return self._dsn

    @property
    def running(self) -> bool:
        return True

    @property
    def pid(self) -> int:
        pytest.skip(_NOT_OURS.format(self._variable))

    def stop(self, mode: str = "fast") -> None:
        pytest.skip(_NOT_OURS.format(self._variable))

    def kill(self) -> None:
        self.stop()


class GivenNats(Nats):
    """The server at ``TAILRACE_TEST_NATS``: may be used, but not stopped."""

    def __init__(self, url: str) -> None:
        super().__init__(Path(), port=urlsplit(url).port or 4222, binary=Path())
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    @property
    def running(self) -> bool:
        return True

    @property
    def pid(self) -> int:
        pytest.skip(_NOT_OURS.format("TAILRACE_TEST_NATS"))

    def stop(self) -> None:
        pytest.skip(_NOT_OURS.format("TAILRACE_TEST_NATS"))

    def kill(self) -> None:
        self.stop()


@contextmanager
def server_folder() -> Iterator[Path]:
    """A folder in which an unprivileged server finds its data; pytest's own are closed to it."""
    folder = Path(tempfile.mkdtemp(prefix="tailrace-test-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def missing(config: pytest.Config, error: ConfigError) -> NoReturn:
    """Skip the test, or fail it where servers are required."""
    if config.getoption("--require-servers"):
        raise error
    pytest.skip(str(error))


def find_postgres(folder: Path, version: int) -> Postgres:
    """A PostgreSQL, not started yet; ConfigError if there is none."""
    variable = _ADDRESSES.get(version, "")
    address = os.environ.get(variable)
    if address:
        return GivenPostgres(address, variable)
    if version == 15:
        return Postgres15(folder, settings=FAST)
    try:
        return Postgres(folder, version=version, settings=FAST)
    except ConfigError:
        program = shutil.which("postgres")
        if program is None or _major(program) not in _INSTEAD[version]:
            raise
        return Postgres(folder, settings=FAST, bin=Path(program).resolve().parent)


def find_nats(folder: Path) -> Nats:
    """A NATS server, not started yet; ConfigError if there is none."""
    address = os.environ.get("TAILRACE_TEST_NATS")
    if address:
        return GivenNats(address)
    try:
        return Nats(folder)
    except ConfigError:
        program = shutil.which("nats-server")
        if program is None:
            raise
        return Nats(folder, binary=Path(program))


def _major(program: str) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+)\.", said)
    return int(found.group(1)) if found else 0
