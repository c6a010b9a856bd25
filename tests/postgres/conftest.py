"""The PostgreSQL tests' databases: one of each version."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines import sql
from postgres.secured import Secured
from servers.found import FAST, missing, server_folder
from servers.tidy import create_database, drop_database
from tailrace.errors import ConfigError
from tailrace_demo.servers import Postgres


@pytest.fixture
def database16(postgres16: Postgres) -> Iterator[str]:
    """The dsn of a fresh database of PostgreSQL 16."""
    postgres16.start()
    name, dsn = create_database(postgres16)
    yield dsn
    drop_database(postgres16, name)


@pytest.fixture(params=[18, 16])
def each_database(request: pytest.FixtureRequest) -> str:
    """A fresh database of either version."""
    name = "database" if request.param == 18 else "database16"
    dsn: str = request.getfixturevalue(name)
    return dsn


@pytest.fixture
def preparing(database: str) -> Iterator[str]:
    """A database in which no prepared transaction is left, even if the test fails."""
    yield database
    for (gid,) in sql(database, "SELECT gid FROM pg_prepared_xacts"):
        sql(database, f"ROLLBACK PREPARED '{gid}'")


@pytest.fixture(scope="session")
def secured(pytestconfig: pytest.Config) -> Iterator[Secured]:
    """A running PostgreSQL 15 with passwords and certificates."""
    with server_folder() as folder:
        try:
            server = Secured(folder, settings=FAST)
        except ConfigError as error:
            missing(pytestconfig, error)
        with server:
            server.make_roles()
            yield server


@pytest.fixture
def shop(secured: Secured) -> Iterator[str]:
    """The dsn of a fresh database on that server, with a published table of one row."""
    secured.start()
    secured.present("server")
    name, dsn = create_database(secured)
    sql(
        dsn,
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t VALUES (1)",
        "GRANT SELECT ON t TO app",
        "CREATE PUBLICATION test FOR TABLE t",
    )
    yield dsn
    drop_database(secured, name)
