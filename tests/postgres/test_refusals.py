"""What the user must mend is said when the source opens, with the step, and without secrets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import sql
from postgres import opening
from postgres.secured import PASSWORD
from tailrace_demo.processes import free_port
from tailrace_demo.servers import Postgres


def refused(dsn: str, **keys: str) -> str:
    said = opening.refused(dsn, **keys)
    assert PASSWORD not in said
    return said


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://u:{PASSWORD}@h/db?nonsense=1",
        "hots=localhost",
        f"password={PASSWORD} x",
        # libpq takes a part of each of these passwords for the host or the port.
        f"postgresql://u:a@{PASSWORD}@127.0.0.1/db",
        f"postgresql://u:a@b:{PASSWORD}@127.0.0.1/db",
        f"postgresql://u:x/{PASSWORD}@127.0.0.1/db",
        f"postgresql://u:{PASSWORD}/x@127.0.0.1/db",
        f"postgresql://u:%zz{PASSWORD}@127.0.0.1/db",
        f"host=127.0.0.1 port={PASSWORD}",
    ],
)
def test_a_dsn_that_is_none(dsn: str) -> None:
    said = refused(dsn)
    assert "source.dsn: not a PostgreSQL connection string" in said
    assert "%40" in said


def test_nobody_listens() -> None:
    said = refused(f"postgresql://u:{PASSWORD}@127.0.0.1:{free_port()}/db")
    assert "check host and port in source.dsn" in said


def test_no_such_database(postgres: Postgres) -> None:
    postgres.start()
    said = refused(postgres.dsn.removesuffix("postgres") + "nowhere")
    assert 'database "nowhere" does not exist' in said
    assert "check the database's name" in said


def test_no_such_role(postgres: Postgres) -> None:
    postgres.start()
    said = refused(postgres.dsn.replace("postgres@", "nobody_here@"))
    assert 'role "nobody_here" does not exist' in said
    assert "check the user" in said


def test_no_table_matches(database: str) -> None:
    sql(database, "CREATE TABLE t (id int PRIMARY KEY)")
    said = refused(database, tables="public.t, public.Orders*")
    assert "no table matches public.Orders*" in said
    assert "schema.table" in said


def test_no_tables_at_all(database: str) -> None:
    assert "no tables" in refused(database)


@pytest.fixture
def strict(embedded: Path) -> Iterator[Postgres]:
    """A server with wal_level=replica that asks the role `app` for its password."""
    with Postgres(embedded, settings={"wal_level": "replica", "fsync": "off"}) as server:
        sql(
            server.dsn,
            f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'",
            "CREATE TABLE t (id int PRIMARY KEY)",
        )
        [(path,)] = sql(server.dsn, "SHOW hba_file")
        hba = Path(path)
        hba.write_text(
            "host all app 127.0.0.1/32 scram-sha-256\n"
            "host all locked 127.0.0.1/32 reject\n" + hba.read_text()
        )
        sql(server.dsn, "SELECT pg_reload_conf()")
        yield server


def test_rights_and_settings(strict: Postgres) -> None:
    where = f"127.0.0.1:{strict.port}/postgres"
    said = refused(f"postgresql://app:wrong-one@{where}")
    assert "password authentication failed" in said
    assert "wrong-one" not in said
    assert "check the user and the password" in said
    assert "check the user and the password" in refused(f"postgresql://app@{where}")
    assert "pg_hba.conf" in refused(f"postgresql://locked@{where}")

    said = refused(f"postgresql://app:{PASSWORD}@{where}")
    assert "wal_level is replica" in said
    assert "ALTER SYSTEM SET wal_level = logical" in said

    strict.settings["wal_level"] = "logical"
    strict.restart()
    said = refused(f"postgresql://app:{PASSWORD}@{where}")
    assert "REPLICATION" in said
    assert "ALTER ROLE" in said

    strict.settings["max_wal_senders"] = "0"
    strict.restart()
    assert "max_wal_senders" in refused(f"postgresql://postgres@{where}")
