"""What servers, databases, roles and the environment are set to changes no event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pipelines import delivered_once, images, running, sql
from servers.tidy import drop_database
from tailrace.errors import PermanentError
from tailrace.event import Event
from tailrace_demo.servers import Postgres

HOSTILE = {
    "datestyle": "German, DMY",
    "intervalstyle": "iso_8601",
    "timezone": "Asia/Kolkata",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "quote_all_identifiers": "on",
    "search_path": "pg_catalog, public",
    "client_encoding": "LATIN1",
    "default_transaction_isolation": "serializable",
}
VALUES = {
    "d": ("date", "2026-11-24", "2026-11-24"),
    "ts": ("timestamp", "2026-11-24 01:02:03", "2026-11-24T01:02:03.000000"),
    "tz": ("timestamptz", "2026-11-24 01:02:03.5+01", "2026-11-24T00:02:03.500000Z"),
    "bc": ("timestamptz", "0044-03-15 00:00:00+00 BC", "0044-03-15 00:00:00+00 BC"),
    "i": ("interval", "1 year 2 days 03:00", "1 year 2 days 03:00:00"),
    "f": ("float8", "0.1234567890123456", 0.1234567890123456),
    "p": ("point", "(0.1234567890123456,1)", "(0.1234567890123456,1)"),
    "b": ("bytea", "\\x00ff5c", "AP9c"),
    "m": ("money", "1234.5", "$1,234.50"),
    "r": ("tstzrange", "[2026-11-24 01:02:03+00,)", '["2026-11-24 01:02:03+00",)'),
    "c": ("regclass", "public.t", "public.t"),
    "a": ("date[]", "{2026-11-24,infinity}", ["2026-11-24", "infinity"]),
    "t": ("text", "größe €", "größe €"),
}


@contextmanager
def on_the_server(dsn: str) -> Iterator[str]:
    names = [name for name in HOSTILE if name != "client_encoding"]
    try:
        sql(dsn, *(f"ALTER SYSTEM SET {name} = {text(name)}" for name in names))
        sql(dsn, "SELECT pg_reload_conf()")
        yield dsn
    finally:
        sql(dsn, *(f"ALTER SYSTEM RESET {name}" for name in names), "SELECT pg_reload_conf()")


@contextmanager
def on_the_database(dsn: str) -> Iterator[str]:
    name = conninfo_to_dict(dsn)["dbname"]
    sql(dsn, *(f'ALTER DATABASE "{name}" SET {key} = {text(key)}' for key in HOSTILE))
    yield dsn


@contextmanager
def on_the_role(dsn: str) -> Iterator[str]:
    sql(dsn, "CREATE ROLE hostile LOGIN SUPERUSER")
    try:
        sql(dsn, *(f"ALTER ROLE hostile SET {key} = {text(key)}" for key in HOSTILE))
        yield make_conninfo(dsn, user="hostile")
    finally:
        sql(dsn, "DROP OWNED BY hostile CASCADE", "DROP ROLE hostile")


@contextmanager
def in_the_dsn(dsn: str) -> Iterator[str]:
    options = " ".join(f"-c {key}={value.replace(' ', '')}" for key, value in HOSTILE.items())
    yield make_conninfo(dsn, options=options, client_encoding="LATIN1")


@contextmanager
def in_the_environment(dsn: str) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, key in [("PGDATESTYLE", "datestyle"), ("PGTZ", "timezone")]:
            patch.setenv(name, HOSTILE[key])
        patch.setenv("PGCLIENTENCODING", "LATIN1")
        patch.setenv("PGOPTIONS", "-c bytea_output=escape")
        yield dsn


def text(name: str) -> str:
    return HOSTILE[name] if name in ("datestyle", "search_path") else f"'{HOSTILE[name]}'"


PLACES = [on_the_server, on_the_database, on_the_role, in_the_dsn, in_the_environment]


@pytest.mark.parametrize("place", PLACES)
def test_p28_settings_change_no_event(
    database: str, place: Callable[[str], AbstractContextManager[str]]
) -> None:
    listed = ", ".join(f"{name} {type}" for name, (type, *_) in VALUES.items())
    sql(database, f"CREATE TABLE t (id int PRIMARY KEY, {listed})")
    insert = f"INSERT INTO t VALUES (%s{', %s' * len(VALUES)})"
    given = [literal for _, literal, _ in VALUES.values()]
    writer = make_conninfo(database, client_encoding="UTF8")

    async def scenario(dsn: str) -> list[Event]:
        async with running(dsn) as run:
            await run.until_backfilled()
            sql(writer, insert, values=[2, *given])
            return await run.until_events(2)

    sql(writer, insert, values=[1, *given])
    with place(database) as dsn:
        [read, streamed] = asyncio.run(scenario(dsn))
    told = {name: value for name, (_, _, value) in VALUES.items()}
    assert images(read)["after"] == {"id": 1, **told}
    assert images(streamed)["after"] == {"id": 2, **told}
    assert repr({**(read.after or {}), "id": 2}) == repr(streamed.after)


def test_names_print_in_full_where_conditions_need_the_search_path(database: str) -> None:
    """With a key and without, one table after the other."""
    wanted = "CREATE FUNCTION wanted(int) RETURNS bool LANGUAGE sql AS 'SELECT $1 = 1'"
    sql(database, wanted, "CREATE TABLE keyed (n int PRIMARY KEY, c regclass)")
    sql(database, *(f"CREATE TABLE {name} (n int, c regclass)" for name in ("one", "two")))
    tables = ("keyed", "one", "two")
    sql(database, *(f"INSERT INTO {t} VALUES (1, 'public.one'), (2, NULL)" for t in tables))
    where = {f"public.{name}": "wanted(n)" for name in tables}
    events = delivered_once(database, snapshot_where=where)
    assert [images(event)["after"] for event in events] == [{"n": 1, "c": "public.one"}] * 3


@contextmanager
def encoded(postgres: Postgres, encoding: str) -> Iterator[str]:
    name = f"t_{encoding.lower()}"
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        create = f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        connection.execute(create.encode())
    try:
        yield make_conninfo(postgres.dsn, dbname=name, client_encoding="UTF8")
    finally:
        drop_database(postgres, name)


@pytest.mark.parametrize(
    ("encoding", "table", "column", "label", "value"),
    [
        ("LATIN1", "Größe", "naïve", "été", 'ÿ¡ "é" {ü}'),
        ("EUC_JP", "注文", "状態", "済み", "日本語 ソ ｶﾅ {表}"),
    ],
    ids=["LATIN1", "EUC_JP"],
)
def test_p30_a_database_in_another_encoding(
    postgres: Postgres, encoding: str, table: str, column: str, label: str, value: str
) -> None:
    postgres.start()
    with encoded(postgres, encoding) as dsn:
        sql(dsn, f"""CREATE TYPE "{label}" AS ENUM ('{label}', 'x')""")
        sql(dsn, f'CREATE TABLE "{table}" ("{column}" text PRIMARY KEY, e "{label}", a text[])')
        insert = f'INSERT INTO "{table}" VALUES (%s, %s, %s)'
        for n in range(5):
            sql(dsn, insert, values=[f"{value}{n}", label, [value, None]])

        async def scenario() -> list[Event]:
            keys = {"tables": f"public.{table}"}
            async with running(dsn, keys=keys, snapshot_chunk=2) as run:
                await run.until_backfilled()
                sql(dsn, insert, values=[f"{value}5", label, [value, None]])
                return await run.until_events(6)

        events = asyncio.run(scenario())
    for n, event in enumerate(events):
        row = {column: f"{value}{n}", "e": label, "a": [value, None]}
        assert event.op == ("c" if n == 5 else "r")
        assert event.table.name == table
        assert event.after == row
        assert images(event)["after"] == row
        assert images(event)["key"] == {column: row[column]}


def test_p30_bytes_in_no_encoding(postgres: Postgres) -> None:
    """SQL_ASCII holds any bytes: those that are UTF-8 are read, the others are refused."""
    postgres.start()
    with encoded(postgres, "SQL_ASCII") as dsn:
        sql(dsn, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'é')")
        [event] = delivered_once(dsn, name="whole")
        assert json.loads(f"{{{event.change.json()}}}".encode("latin-1"))["after"]["v"] == "é"
        sql(dsn, "INSERT INTO t VALUES (2, E'\\xe9')")
        with pytest.raises(PermanentError, match="UTF8") as caught:
            delivered_once(dsn, name="broken")
        assert caught.value.mend
