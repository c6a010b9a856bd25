"""How one gets to the server, and what becomes of a way that is barred (P10, P31, P32)."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pipelines import DEADLINE, delivered_once, eventually, running, sql
from postgres.opening import opens, refused
from postgres.secured import PASSWORD, Secured
from servers.pgbouncer import PgBouncer
from servers.proxy import Proxy
from tailrace.errors import ConfigError
from tailrace.event import Event
from tailrace_demo.processes import free_port
from tailrace_demo.servers import Postgres
from tailrace_postgres.connecting import break_off, conninfo, session
from tailrace_postgres.source import PostgresSource

TABLE = "CREATE TABLE t (id int PRIMARY KEY)"


def numbers(events: list[Event]) -> list[int]:
    return [(event.after or {})["id"] for event in events]


# -- what libpq finds elsewhere


def test_a_passfile(shop: str, tmp_path: Path) -> None:
    passfile = tmp_path / "pass"
    passfile.write_text(f"127.0.0.1:*:*:app:{PASSWORD}\n")
    passfile.chmod(0o600)
    dsn = make_conninfo(shop, user="app", passfile=str(passfile))
    assert numbers(delivered_once(dsn)) == [1]
    passfile.write_text(f"127.0.0.1:*:*:app:not-{PASSWORD}\n")
    said = refused(dsn)
    assert "password authentication failed" in said
    assert PASSWORD not in said


@pytest.fixture
def service(shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A service file with the service `shop`, which leads to the database of that name."""
    file = tmp_path / "services"
    where = {key: value for key, value in conninfo_to_dict(shop).items() if value}
    lines = [f"{key}={value}" for key, value in {**where, "user": "app"}.items()]
    file.write_text("\n".join(["[shop]", *lines, f"password={PASSWORD}", ""]))
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    return file


@pytest.mark.usefixtures("service")
def test_a_service() -> None:
    assert numbers(delivered_once("service=shop")) == [1]
    said = refused("service=ship")
    assert 'definition of service "ship" not found' in said
    assert "PGSERVICEFILE" in said


def test_what_others_say_counts_for_more_than_our_defaults(
    service: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = conninfo_to_dict(conninfo("service=shop", "test"))
    assert ours["connect_timeout"] == "10"
    assert ours["application_name"] == "cdc test"
    with service.open("a") as file:
        file.write("connect_timeout=3\n")
    monkeypatch.setenv("PGAPPNAME", "theirs")
    theirs = conninfo_to_dict(conninfo("service=shop", "test"))
    assert "connect_timeout" not in theirs
    assert "application_name" not in theirs
    assert theirs["keepalives_idle"] == "10"


SHOW = """
SELECT current_setting(name)
FROM unnest(ARRAY['my.own', 'datestyle', 'extra_float_digits']) name
"""


@pytest.mark.parametrize("replication", [False, True])
@pytest.mark.parametrize("way", ["dsn", "environment", "service"])
def test_options_stand_beside_our_settings(
    service: Path, monkeypatch: pytest.MonkeyPatch, way: str, replication: bool
) -> None:
    options = "-c my.own=1 -c datestyle=SQL -c extra_float_digits=0"
    dsn = "service=shop"
    if way == "dsn":
        dsn = make_conninfo(dsn, options=options)
    elif way == "environment":
        monkeypatch.setenv("PGOPTIONS", options)
        monkeypatch.setenv("PGDATESTYLE", "German")
    else:
        with service.open("a") as file:
            file.write(f"options={options}\n")

    async def settings() -> list[str]:
        connection = await session(conninfo(dsn, "test"), replication=replication)
        async with connection:
            rows = await (await connection.execute(SHOW)).fetchall()
            return [value for (value,) in rows]

    own, style, digits = asyncio.run(settings())
    assert (own, style[:3], digits) == ("1", "ISO", "3")


def test_what_the_user_says_of_the_protocol_is_ours_to_say(database: str) -> None:
    """A DSN that was made for replication and for another encoding."""
    sql(database, "CREATE TABLE t (name text PRIMARY KEY)", "INSERT INTO t VALUES ('Łódź')")
    dsn = make_conninfo(database, replication="database", client_encoding="LATIN1")
    assert [event.after for event in delivered_once(dsn)] == [{"name": "Łódź"}]


# -- several hosts


def hosts(dsn: str, *ports: object, **parameters: str) -> str:
    """The dsn with hosts of these ports, to be tried in this order."""
    names = ",".join(["127.0.0.1"] * len(ports))
    return make_conninfo(dsn, host=names, port=",".join(map(str, ports)), **parameters)


def test_several_hosts(shop: str, secured: Secured, database16: str, postgres16: Postgres) -> None:
    """The first is not there, the second read-only: `target_session_attrs` decides."""
    name = conninfo_to_dict(shop)["dbname"]
    read_only = f"ALTER DATABASE {name} SET default_transaction_read_only = on"
    sql(database16, f"CREATE DATABASE {name}", read_only)
    try:
        ports = (free_port(), postgres16.port, secured.port)
        dsn = hosts(shop, *ports, target_session_attrs="read-write")
        assert opens(dsn) == opens(shop)
        sql(shop, read_only)
        said = refused(dsn)
    finally:
        sql(database16, f"DROP DATABASE {name}")
    assert "Connection refused" in said
    assert said.count("session is read-only") == 2
    assert "target_session_attrs" in said.partition("->")[2]


def test_no_host_is_there(shop: str) -> None:
    said = refused(hosts(shop, free_port(), free_port()))
    assert said.count("Connection refused") == 2
    assert "check host and port" in said


# -- poolers


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ignore_startup_parameters": "options"},
        {"ignore_startup_parameters": "options,replication"},
        {"ignore_startup_parameters": "options,replication", "pool_mode": "transaction"},
        {"ignore_startup_parameters": "options,replication", "pool_mode": "statement"},
    ],
)
def test_a_pooler_in_the_way_is_said(
    pgbouncer: PgBouncer, database: str, settings: dict[str, str]
) -> None:
    sql(database, TABLE)
    pgbouncer.settings.update(settings)
    with pgbouncer:
        way = make_conninfo(database, port=str(pgbouncer.port))
        said = refused(way)
        assert "source.dsn leads to pgBouncer" in said
        assert ("to several sessions" in said) == ("pool_mode" in settings)
        assert "name PostgreSQL itself" in said.partition("->")[2]
        said = refused(make_conninfo(way, options="-c statement_timeout=0"))
        assert "source.dsn leads to pgBouncer" in said
        assert bool(settings) != ("unsupported startup parameter: options" in said)


# -- P10


class Impatient(PostgresSource):
    silence = 2.0


def test_p10_a_half_open_connection(
    postgres: Postgres,
    database: str,
    proxy: Callable[[int], Proxy],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the middle of a backfill one host falls silent. Its old walsender holds the slot, until
    the server misses us, too."""
    rows = 500
    sql(database, TABLE, f"INSERT INTO t SELECT generate_series(1, {rows})")
    first, second = proxy(postgres.port), proxy(postgres.port)
    dsn = hosts(database, first.port, second.port, options="-c wal_sender_timeout=5000")

    async def scenario() -> list[Event]:
        async with running(dsn, source=Impatient, snapshot_chunk=5) as run:
            await run.until_events(10)
            first.freeze()
            first.refuse()
            sql(database, f"INSERT INTO t VALUES ({rows + 1})")
            await run.until(lambda: rows + 1 in numbers(run.events))
            await run.until_backfilled()
            return run.events

    with caplog.at_level(logging.WARNING):
        events = asyncio.run(scenario())
    assert "the server has said nothing for 2 s" in caplog.text
    assert "is in use by the server process" in caplog.text
    assert sorted(set(numbers(events))) == list(range(1, rows + 2))


@pytest.mark.parametrize("replication", [False, True])
def test_whoever_waits_is_told_when_we_hang_up(database: str, replication: bool) -> None:
    async def scenario() -> None:
        connection = await session(conninfo(database, "test"), replication=replication)
        waiting = asyncio.create_task(connection.execute("SELECT pg_sleep(600)"))
        asleep = f"SELECT 1 FROM pg_stat_activity WHERE pid = {connection.info.backend_pid}"
        await eventually(lambda: sql(database, f"{asleep} AND wait_event = 'PgSleep'"))
        break_off(connection)
        with pytest.raises(psycopg.OperationalError):
            await asyncio.wait_for(waiting, 10)
        assert connection.closed
        break_off(connection)

    asyncio.run(scenario())


# -- P31


@pytest.fixture
def role(database: str) -> Iterator[str]:
    """The dsn with a role that has what the manual asks for."""
    base = conninfo_to_dict(database)["dbname"]
    name = f"reader_{base}"
    sql(
        database,
        TABLE,
        "INSERT INTO t VALUES (1)",
        f"REVOKE CONNECT ON DATABASE {base} FROM PUBLIC",
        f"CREATE ROLE {name} LOGIN REPLICATION",
        f"GRANT CONNECT ON DATABASE {base} TO {name}",
        f"GRANT SELECT ON t TO {name}",
        "CREATE PUBLICATION test FOR TABLE t",
    )
    yield make_conninfo(database, user=name)
    sql(database, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


RIGHTS = {
    "replication": "ALTER ROLE {user} NOREPLICATION",
    "login": "ALTER ROLE {user} NOLOGIN",
    "connect": "REVOKE CONNECT ON DATABASE {dbname} FROM {user}",
}


def take(database: str, role: str, right: str) -> None:
    """Take the right away, and end the role's connections."""
    names = conninfo_to_dict(role)
    ours = "FROM pg_stat_activity WHERE usename = '{user}'"
    for statement in (RIGHTS[right], f"SELECT pg_terminate_backend(pid, 5000) {ours}"):
        sql(database, statement.format(**names))


def mending(said: str) -> str:
    """The statement with which a message says to mend it."""
    found = re.search(r"-> ((?:ALTER|GRANT) [^;\n]*)", said)
    assert found, said
    return found[1]


@pytest.mark.parametrize("right", RIGHTS)
def test_p31_a_right_that_is_missing(database: str, role: str, right: str) -> None:
    take(database, role, right)
    sql(database, mending(refused(role)))
    assert numbers(delivered_once(role)) == [1]


@pytest.mark.parametrize("right", RIGHTS)
def test_p31_a_right_that_is_taken_while_it_runs(
    database: str, role: str, right: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said what is missing, and the pipeline goes on once that is granted."""

    async def scenario() -> None:
        async with running(role) as run:
            await run.until_backfilled()
            take(database, role, right)
            await run.until(lambda: denied(caplog.text))
            sql(database, mending(denied(caplog.text)), "INSERT INTO t VALUES (2)")
            await run.until(lambda: 2 in numbers(run.events))

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())


def denied(text: str) -> str:
    """The line that says what is missing."""
    return next((line for line in text.splitlines() if " -> " in line), "")


TABLES = {
    "select": ("REVOKE SELECT ON shop.t FROM {user}", "permission denied for table t"),
    "usage": ("REVOKE USAGE ON SCHEMA shop FROM {user}", "permission denied for schema shop"),
}


@pytest.mark.parametrize("right", TABLES)
def test_p31_tables_that_may_not_be_read(database: str, role: str, right: str) -> None:
    names = conninfo_to_dict(role)
    taken, words = TABLES[right]
    grants = ("GRANT USAGE ON SCHEMA shop TO {user}", "GRANT SELECT ON shop.t TO {user}")
    sql(database, "CREATE SCHEMA shop", "ALTER TABLE t SET SCHEMA shop")
    sql(database, *(statement.format(**names) for statement in (*grants, taken)))
    with pytest.raises(ConfigError, match=words) as caught:
        delivered_once(role)
    assert caught.value.exit_status == 2
    sql(database, mending(str(caught.value)))
    sql(database, "SELECT pg_drop_replication_slot('test')")
    assert numbers(delivered_once(role)) == [1]


def test_p31_select_that_is_taken_while_it_runs(database: str, role: str) -> None:
    """The stream does not need it; the backfill stops and says so."""
    revoke = f"REVOKE SELECT ON t FROM {conninfo_to_dict(role)['user']}"

    async def streaming() -> None:
        async with running(role) as run:
            await run.until_backfilled()
            sql(database, revoke, "INSERT INTO t SELECT generate_series(2, 1000)")
            await run.until(lambda: 1000 in numbers(run.events))

    asyncio.run(streaming())
    with pytest.raises(ConfigError, match=r"reading public\.t for the backfill") as caught:
        delivered_once(role, name="another", keys={"publication": "test"})
    assert mending(str(caught.value)).startswith('GRANT SELECT ON "public"."t" TO ')


# -- P32


def only_sender(dsn: str) -> psycopg.Connection[tuple[object, ...]]:
    """Takes the server's one walsender, once whoever had it before is gone."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return psycopg.connect(dsn, replication="database", autocommit=True)
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_p32_slots_and_senders_that_are_used_up(embedded: Path) -> None:
    """wal_level is in test_refusals."""
    settings = {"max_replication_slots": "1", "max_wal_senders": "1", "fsync": "off"}
    with Postgres(embedded, settings=settings) as server:
        dsn = server.dsn
        sql(dsn, TABLE, "SELECT pg_create_physical_replication_slot('other')")
        with pytest.raises(ConfigError, match="all replication slots are in use") as caught:
            delivered_once(dsn)
        assert caught.value.exit_status == 2
        assert "ALTER SYSTEM SET max_replication_slots" in str(caught.value.mend)
        with only_sender(dsn):
            said = refused(dsn)
        assert re.search(r"exceeds \"?max_wal_senders\"? \(currently 1\)", said)
        assert "ALTER SYSTEM SET max_wal_senders" in said.partition("->")[2]
