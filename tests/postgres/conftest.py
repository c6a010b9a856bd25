"""The PostgreSQL tests' databases: one of each version."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers.tidy import create_database, drop_database
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
