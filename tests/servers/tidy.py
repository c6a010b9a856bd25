"""Databases and streams for one test, and their end, whatever the test has left in them."""

from __future__ import annotations

import asyncio
import time
import uuid

import nats as nats_client
import psycopg
from psycopg import sql

from tailrace_demo.servers import Nats, Postgres

DROP_SECONDS = 30.0


def create_database(server: Postgres) -> tuple[str, str]:
    """A fresh database's name and dsn."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    parts = server.dsn.split("?", 1)
    base = parts[0].rsplit("/", 1)[0]
    return name, "?".join([f"{base}/{name}", *parts[1:]])


def drop_database(server: Postgres, name: str) -> None:
    """Drop it, with its slots, though somebody may still be reading from them."""
    server.start()
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        deadline = time.monotonic() + DROP_SECONDS
        while _drop_slots(connection, name):
            assert time.monotonic() < deadline, f"slots of {name} stay in use"
            time.sleep(0.02)
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        connection.execute(drop.format(sql.Identifier(name)))


def _drop_slots(connection: psycopg.Connection, database: str) -> bool:
    """Whether there were any."""
    slots = connection.execute(
        "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s", [database]
    ).fetchall()
    for slot, pid in slots:
        try:
            if pid is not None:
                connection.execute("SELECT pg_terminate_backend(%s, 1000)", [pid])
            connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
        except (psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
            continue
    return bool(slots)


def delete_streams(server: Nats) -> None:
    """Delete every stream of the server."""
    server.start()
    asyncio.run(_delete_streams(server.url))


async def _delete_streams(url: str) -> None:
    client = await nats_client.connect(url)
    try:
        jetstream = client.jetstream()
        for stream in await jetstream.streams_info():
            await jetstream.delete_stream(str(stream.config.name))
    finally:
        await client.close()
