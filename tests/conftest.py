"""Real servers for every test: one of each kind per worker, a database and streams per test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from servers.found import find_nats, find_postgres, missing, server_folder
from servers.pgbouncer import PgBouncer
from servers.proxy import Proxy
from servers.tidy import create_database, delete_streams, drop_database
from tailrace.errors import ConfigError
from tailrace_demo.servers import Nats, Postgres


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-servers",
        action="store_true",
        default=os.environ.get("CI") == "true",
        help="fail, instead of skip, where a server is missing (set when CI=true)",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests tell of themselves by ``record_property("told", …)``, from xdist's workers too."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "told":
                terminalreporter.write_line(f"{report.nodeid}: {value}")


@contextmanager
def running_postgres(config: pytest.Config, version: int) -> Iterator[Postgres]:
    with server_folder() as folder:
        try:
            server = find_postgres(folder, version)
        except ConfigError as error:
            missing(config, error)
        with server:
            yield server


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for a test's own servers."""
    with server_folder() as path:
        yield path


@pytest.fixture
def embedded(pytestconfig: pytest.Config, folder: Path) -> Path:
    """A folder for servers of the packages, where these are installed."""
    try:
        Postgres(folder)
        Nats(folder)
    except ConfigError as error:
        missing(pytestconfig, error)
    return folder


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    """A running PostgreSQL 18. A test that stops it need not start it again."""
    with running_postgres(pytestconfig, 18) as server:
        yield server


@pytest.fixture(scope="session")
def postgres16(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    """A running PostgreSQL 16."""
    with running_postgres(pytestconfig, 16) as server:
        yield server


@pytest.fixture(scope="session")
def postgres15(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    """A running PostgreSQL 15 from Debian's packages: with TLS, contrib and test_decoding."""
    with running_postgres(pytestconfig, 15) as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The dsn of a fresh database, dropped afterwards with its slots."""
    postgres.start()
    name, dsn = create_database(postgres)
    yield dsn
    drop_database(postgres, name)


@pytest.fixture
def database15(postgres15: Postgres) -> Iterator[str]:
    """The dsn of a fresh database of PostgreSQL 15, dropped afterwards with its slots."""
    postgres15.start()
    name, dsn = create_database(postgres15)
    yield dsn
    drop_database(postgres15, name)


@pytest.fixture
def pgbouncer(pytestconfig: pytest.Config, folder: Path, postgres: Postgres) -> PgBouncer:
    """A pgBouncer before `postgres`, not started yet."""
    postgres.start()
    try:
        return PgBouncer(folder, postgres)
    except ConfigError as error:
        missing(pytestconfig, error)


@pytest.fixture(scope="session")
def nats_server(pytestconfig: pytest.Config) -> Iterator[Nats]:
    with server_folder() as folder:
        try:
            server = find_nats(folder)
        except ConfigError as error:
            missing(pytestconfig, error)
        with server:
            yield server


@pytest.fixture
def nats(nats_server: Nats) -> Iterator[Nats]:
    """A running NATS server with JetStream; its streams are deleted afterwards."""
    nats_server.start()
    yield nats_server
    delete_streams(nats_server)


@pytest.fixture
def proxy() -> Iterator[Callable[[int], Proxy]]:
    """Makes running proxies: ``proxy(postgres.port).port`` leads to the server."""
    with ExitStack() as proxies:
        yield lambda upstream: proxies.enter_context(Proxy(upstream))
