"""Checkpoints in PostgreSQL: ``checkpoint=postgres://user@host/db?schema=…``.

A row for each pipeline in the table ``tailrace_checkpoint``, one for each request in
``tailrace_checkpoint_request``. The source leaves both out.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString
from urllib.parse import unquote

import psycopg
from msgspec.structs import replace
from psycopg import AsyncConnection, AsyncCursor, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tailrace.checkpoint import BackfillRequest
from tailrace.errors import CheckpointError, ConfigError, TailraceError, TransientError
from tailrace.redact import mask
from tailrace.stores.encoding import damaged, digest, pack_requests, unpack_requests
from tailrace.stores.records import Record, RecordStore
from tailrace_postgres.captured import OWN
from tailrace_postgres.connecting import break_off, conninfo

PATIENCE = 30.0
"""How many seconds a statement may take."""

_SCHEMA = re.compile(r"(?<=[?&])schema=([^&]*)&?")

# bytea, so that the database's encoding does not touch it.
_TABLES = """\
CREATE TABLE IF NOT EXISTS {checkpoints} (name text PRIMARY KEY, revision bigint NOT NULL, \
epoch bigint NOT NULL, payload bytea, sha256 text NOT NULL, writer text NOT NULL); \
CREATE TABLE IF NOT EXISTS {requests} (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
pipeline text NOT NULL, id text NOT NULL, payload bytea NOT NULL, sha256 text NOT NULL, \
UNIQUE (pipeline, id))"""
_GRANT = "GRANT SELECT, INSERT, UPDATE, DELETE ON {checkpoints}, {requests} TO {role}"
_MISSING = "SELECT to_regclass({checkpoint_names}) IS NULL OR to_regclass({request_names}) IS NULL"
_ALLOWED = """
SELECT bool_and(has_table_privilege(t::regclass, p))
FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p,
     unnest(ARRAY[{checkpoint_names}, {request_names}]) t
"""
_READ = "SELECT epoch, payload, sha256, writer, revision FROM {checkpoints} WHERE name = %s"
_INSERT = """
INSERT INTO {checkpoints} (epoch, payload, sha256, writer, name, revision)
VALUES (%s, %s, %s, %s, %s, %s + 1) ON CONFLICT (name) DO NOTHING
"""
_UPDATE = """
UPDATE {checkpoints} SET epoch = %s, payload = %s, sha256 = %s, writer = %s,
revision = revision + 1 WHERE name = %s AND revision = %s
"""
_NAMES = 'SELECT name FROM {checkpoints} WHERE payload IS NOT NULL ORDER BY name COLLATE "C"'
_ASK = """
INSERT INTO {requests} (pipeline, id, payload, sha256) VALUES (%s, %s, %s, %s)
ON CONFLICT (pipeline, id) DO NOTHING
"""
_ASKED = "SELECT payload, sha256 FROM {requests} WHERE pipeline = %s ORDER BY number"


class PostgresStore(RecordStore):
    """``postgres://…``; several pipelines may share the tables. Commits synchronously."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.where = mask(f"postgres:{location}")
        self._info = ""
        self._names: dict[str, sql.Composable] = {}
        self._connecting = asyncio.Lock()
        self._connection: AsyncConnection[Any] | None = None

    async def connect(self) -> None:
        self._read_location()
        await self._make_ready()

    async def made(self) -> bool:
        self._read_location()
        try:
            connection = await self._connected()
            if not await self._missing(connection):
                return True
            await self._make_tables(connection, kept=False)  # only to see that it can be done
            return False
        finally:
            await self.close()

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def read(self, name: str) -> Record:
        row = await (await self._run(_READ, name)).fetchone()
        return Record(*row) if row else Record()

    async def swap(self, name: str, record: Record) -> Record | None:
        statement = _UPDATE if record.revision else _INSERT
        values = (record.epoch, record.payload, record.sha256, record.writer)
        cursor = await self._run(statement, *values, name, record.revision)
        return replace(record, revision=record.revision + 1) if cursor.rowcount else None

    async def forget(self, name: str) -> None:
        await self._run("DELETE FROM {requests} WHERE pipeline = %s", name)

    async def names(self) -> list[str]:
        return [name for (name,) in await (await self._run(_NAMES)).fetchall()]

    async def ask(self, name: str, request: BackfillRequest) -> None:
        payload = pack_requests([request])
        await self._run(_ASK, name, request.id, payload, digest(name, payload))

    async def asked(self, name: str) -> list[BackfillRequest]:
        rows = await (await self._run(_ASKED, name)).fetchall()
        found = [unpack_requests(name, payload, sha, self.where) for payload, sha in rows]
        return [request for requests in found for request in requests]

    async def answer(self, name: str, request_id: str) -> None:
        await self._run("DELETE FROM {requests} WHERE pipeline = %s AND id = %s", name, request_id)

    def _read_location(self) -> None:
        found = _SCHEMA.search(self.location)
        schema = (unquote(found[1]),) if found and found[1] else ()
        url = _SCHEMA.sub("", self.location).rstrip("?&")
        try:
            if not url.startswith("//"):
                raise psycopg.ProgrammingError
            self._info = _with_settings(conninfo(f"postgresql:{url}", "checkpoint"))
        except psycopg.ProgrammingError as error:
            raise ConfigError(
                "checkpoint: postgres: is not followed by the address of a database",
                mend="write checkpoint=postgres://user@host:5432/database; @ : / and % of the"
                " password are %40 %3A %2F and %25",
            ) from error
        for name, table in (("checkpoint", OWN), ("request", f"{OWN}_request")):
            identifier = sql.Identifier(*schema, table)
            self._names[f"{name}s"] = identifier
            self._names[f"{name}_names"] = sql.Literal(identifier.as_string())

    async def _make_ready(self) -> None:
        """Make the tables if they are missing; see that they may be read and written."""
        connection = await self._connected()
        if await self._missing(connection):
            await self._make_tables(connection)
        [(allowed,)] = await (await self._run(_ALLOWED)).fetchall()
        if not allowed:
            raise ConfigError(
                f"checkpoint: the role may not read and write the tables in {self.where}",
                mend=f"let their owner run: {self._filled(_GRANT).as_string()}",
            )

    async def _missing(self, connection: AsyncConnection[Any]) -> bool:
        self._names["role"] = sql.Identifier(connection.info.user)
        [(missing,)] = await (await self._run(_MISSING)).fetchall()
        return bool(missing)

    async def _make_tables(self, connection: AsyncConnection[Any], *, kept: bool = True) -> None:
        """Unless they are to be `kept`, they are gone again on return."""
        try:
            async with connection.transaction(force_rollback=not kept):
                await connection.execute("SELECT pg_advisory_xact_lock(hashtext('tailrace'))")
                await connection.execute(self._filled(_TABLES))
        except psycopg.Error as error:
            if error.sqlstate not in ("42501", "3F000", "25006"):
                raise _translated(error, self.where) from error
            raise ConfigError(
                f"checkpoint: the tables are missing in {self.where}, and the role may not make"
                f" them: {error.diag.message_primary}",
                mend="let somebody who may run: "
                f"{self._filled(_TABLES).as_string()}; {self._filled(_GRANT).as_string()}",
            ) from error

    def _filled(self, statement: LiteralString) -> sql.Composed:
        return sql.SQL(statement).format(**self._names)

    async def _run(self, statement: LiteralString, *values: Any) -> AsyncCursor[Any]:
        connection = await self._connected()
        with _errors(self.where), _patience(connection):
            return await connection.execute(self._filled(statement), values or None)

    async def _connected(self) -> AsyncConnection[Any]:
        async with self._connecting:  # requests are looked for while a position is saved
            if self._connection is None or self._connection.closed:
                with _errors(self.where):
                    self._connection = await AsyncConnection.connect(self._info, autocommit=True)
            return self._connection


def _with_settings(info: str) -> str:
    """The user's own options may shorten the wait for a lock, but not loosen a commit."""
    options = conninfo_to_dict(info).get("options", "")
    return make_conninfo(info, options=f"-c lock_timeout=10s {options} -c synchronous_commit=on")


@contextmanager
def _patience(connection: AsyncConnection[Any]) -> Iterator[None]:
    """Hang up on a server that does not answer.

    To cancel the statement would take a second connection to it, and might end a commit's wait
    for the standby.
    """
    timer = asyncio.get_running_loop().call_later(PATIENCE, break_off, connection)
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _errors(where: str) -> Iterator[None]:
    """Driver errors of the block leave it as Tailrace's."""
    try:
        yield
    except psycopg.Error as error:
        raise _translated(error, where) from error
    except OSError as error:
        raise TransientError(f"the checkpoint in {where} cannot be reached: {error}") from error


# SQLSTATE (or its class) -> the mending step for what passes once that is done.
_MENDS = {
    "28": "check the user and the password in the key checkpoint, and pg_hba.conf",
    "3D000": "check the database's name in the key checkpoint",
    "42501": "let the owner of the tables grant SELECT, INSERT, UPDATE and DELETE on them, and"
    " USAGE on their schema",
    "25006": "name the primary: add target_session_attrs=read-write to the address",
    "53": "make room on the database's disk, or raise max_connections",
    "55P03": "look for a transaction that keeps the row locked: SELECT * FROM pg_locks",
    "": "check host, port and user in the key checkpoint, and that the server runs",
}


def _translated(error: psycopg.Error, where: str) -> TailraceError:
    state = error.sqlstate or ""
    said = error.diag.message_primary or str(error).strip().partition("\n")[0]
    if state == "42P01":
        return CheckpointError(
            f"the table of {where} was removed while a pipeline was using it: {said}",
            mend="Bring it back and start the pipeline again.",
        )
    if state.startswith("42") and state != "42501":
        return CheckpointError(
            f"{where} does not hold checkpoints as Tailrace writes them: {said}",
            mend="Name another schema for them: checkpoint=postgres://…?schema=NAME.",
        )
    if state.startswith("XX"):
        return damaged(where, said)
    mend = max((prefix for prefix in _MENDS if state.startswith(prefix)), key=len)
    return TransientError(f"the checkpoint in {where} cannot be reached: {said}", mend=_MENDS[mend])
