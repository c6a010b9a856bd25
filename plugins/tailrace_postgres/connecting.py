"""Connecting: what the user wrote as libpq understands it, what we add, and what must be the same.

The replication protocol itself is `tailrace_postgres.replication`.
"""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import psycopg
from psycopg import AsyncConnection, pq, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tailrace.errors import ConfigError
from tailrace_postgres.catalog import fetch
from tailrace_postgres.config import PostgresConfig
from tailrace_postgres.errors import pooler

PINNED = {
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "timezone": "UTC",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "quote_all_identifiers": "off",
    "client_min_messages": "notice",
    "row_security": "off",
}
"""What decides how the server prints values, so that stream and backfill agree. Where row security
would hide rows from the backfill, reading is an error instead. And that a warning of a gap in the
stream is sent (`replication.Link.unpublished`)."""

_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


def conninfo(dsn: str, name: str) -> str:
    """The user's DSN with our defaults; raises psycopg.ProgrammingError for a bad one.

    They are for what neither the DSN nor the environment nor the service file says. `name` is
    the pipeline's.
    """
    given = _parsed(dsn)
    given.pop("replication", None)
    told = _told(dsn)
    if told.get("sslrootcert") == "system":
        _find_the_systems_certificates()
    ours = {**_DEFAULTS, "application_name": f"cdc {name}"[:63]}
    defaults = {key: value for key, value in ours.items() if key not in told}
    return make_conninfo(**{**defaults, **given, "client_encoding": "UTF8"})


def conninfo_of(config: PostgresConfig, name: str) -> str:
    """`conninfo` of ``source.dsn``; ConfigError for a bad one."""
    try:
        return conninfo(config.dsn.get_secret_value(), name)
    except psycopg.ProgrammingError as error:
        raise ConfigError(
            "source.dsn: not a PostgreSQL connection string",
            mend="write postgresql://user@host:5432/database or host=… dbname=…; in a URL,"
            " @ : / and % of the password are %40 %3A %2F and %25",
        ) from error


def check_version(connection: AsyncConnection[Any]) -> None:
    version = connection.info.server_version
    if version < 140_000:
        raise ConfigError(
            f"PostgreSQL {version // 10_000} is too old",
            mend="Tailrace reads PostgreSQL 14 and newer",
        )


def _parsed(dsn: str) -> dict[str, Any]:
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # libpq quotes what it does not understand, and that may be a part of the password.
        raise psycopg.ProgrammingError("libpq does not understand it") from None
    _check_address(str(given.get("host", "")), str(given.get("port", "")))
    return given


def _check_address(hosts: str, ports: str) -> None:
    """A bare @, : or / in a URL's password makes libpq take a part of it for host or port.

    It would print that part, so it must not come to see it.
    """
    if any("@" in host[1:] for host in hosts.split(",")):
        raise psycopg.ProgrammingError("host with @")
    if any(port and not port.isdigit() for port in ports.split(",")):
        raise psycopg.ProgrammingError("port that is no number")


def _told(dsn: str) -> dict[str, str]:
    """Every parameter that DSN, environment or service file gives, its compiled default apart.

    Only libpq reads them all, and it does so when it begins to connect: here to nowhere.
    """
    nowhere = make_conninfo(dsn, host="/nowhere", hostaddr="", port="1")
    connection = pq.PGconn.connect_start(nowhere.encode())
    options = [o for o in connection.info if o.val and o.val != o.compiled]
    connection.finish()
    return {o.keyword.decode(): o.val.decode() for o in options if o.val}


def _find_the_systems_certificates() -> None:
    """The OpenSSL in psycopg's wheel looks for them in a folder that is on nobody's machine."""
    if pq.__impl__ != "binary" or {"SSL_CERT_FILE", "SSL_CERT_DIR"} & os.environ.keys():
        return
    paths = ssl.get_default_verify_paths()
    found = {"SSL_CERT_FILE": paths.cafile, "SSL_CERT_DIR": paths.capath}
    os.environ.update({name: path for name, path in found.items() if path})


# Not as options at the connection's start: these would hide those of PGOPTIONS and service files.
PIN = sql.SQL("; ").join(
    sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
    for name, value in PINNED.items()
)


async def session(info: str, *, replication: bool = False) -> AsyncConnection[Any]:
    """A connection with the settings pinned; raises ConfigError where a pooler would undo that.

    In replication mode only simple queries may be sent on it.
    """
    mode = "database" if replication else None
    connection = await AsyncConnection.connect(info, autocommit=True, replication=mode)
    try:
        if not replication and await _is_pooled(connection, info):
            raise pooler()  # before others are given what we set
        await connection.execute(PIN)
        if replication:  # elsewhere the user's conditions need it; see `catalog.IN_FULL`
            await connection.execute("SET search_path = ''")
    except BaseException:
        await connection.close()
        raise
    return connection


async def _is_pooled(connection: AsyncConnection[Any], info: str) -> bool:
    """Whether the server's process is given to others between two statements of ours."""
    process = await _process(connection)
    if process == connection.info.backend_pid:
        return False
    # A proxy has made that number up, for the key with which queries are cancelled.
    async with await AsyncConnection.connect(info, autocommit=True) as other:
        return await _process(other) == process or await _process(connection) != process


async def _process(connection: AsyncConnection[Any]) -> int:
    [(process,)] = await fetch(connection, sql.SQL("SELECT pg_backend_pid()"))
    return int(process)


def exposure(connection: AsyncConnection[Any]) -> str | None:
    """What somebody on the way to the server could do; None if there is no way, or it is safe."""
    info = connection.info
    if not info.hostaddr or ip_address(info.hostaddr).is_loopback:
        return None
    if not connection.pgconn.ssl_in_use:
        return f"the connection to {info.host} is not encrypted: anybody on the way can read along"
    told = {option.keyword: option.val or b"" for option in connection.pgconn.info}
    mode = told[b"sslmode"]
    # With a root certificate libpq checks under `require` as it does under `verify-ca`.
    if mode.startswith(b"verify") or (mode == b"require" and told[b"sslrootcert"]):
        return None
    return f"the certificate of {info.host} is not checked: it may be somebody else"


def break_off(connection: AsyncConnection[Any]) -> None:
    """Whoever waits for the server's answer gets an error now; so does the next who asks."""
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as way,
    ):
        way.shutdown(socket.SHUT_RDWR)
