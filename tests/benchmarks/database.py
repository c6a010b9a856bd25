"""The database that is read: its tables, its load, and a slot of its own for each contender."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

from benchmarks.plan import Case
from tailrace_demo.servers import Postgres

SETTINGS = {
    "shared_buffers": "256MB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
}
"""The same for all contenders: nothing runs in the background while one is measured."""

_TABLE = """
CREATE TABLE {table} (
    id bigint PRIMARY KEY, quantity int, name text, price numeric(12,2), at timestamptz,
    note text, doc jsonb
)"""

_WIDE_TABLE = """
CREATE TABLE {table} (id bigint PRIMARY KEY, body text);
ALTER TABLE {table} ALTER COLUMN body SET STORAGE EXTERNAL"""

_LOAD = """
CREATE PROCEDURE {load}(many bigint, size bigint) LANGUAGE plpgsql AS $$
DECLARE low bigint := 0;
BEGIN
    WHILE low < many LOOP
        INSERT INTO {table}
        SELECT i, i % 1000, 'name ' || i, (i % 100000) / 100.0,
               timestamptz '2026-01-01 00:00:00.123456Z' + i * interval '1.001 second',
               rpad('note ' || i, 60, 'x'), jsonb_build_object('number', i, 'text', 'some')
        FROM generate_series(low + 1, least(low + size, many)) AS i;
        COMMIT;
        low := low + size;
    END LOOP;
END $$"""

_DROP = (
    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
    " WHERE slot_name = %s AND active_pid IS NULL"
)


class Database:
    """One connection, autocommit. A table, its publication and its first slot share a name."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self.dsn = server.dsn
        self._connection = psycopg.connect(self.dsn, autocommit=True)

    def close(self) -> None:
        self._connection.close()

    def ask(self, query: str, *values: object) -> str:
        """The one value that `query` gives, as text."""
        row = self._connection.execute(query, values).fetchone()
        return "" if row is None else str(row[0])

    def create(self, table: str, columns: LiteralString = _TABLE) -> None:
        """A table of the seven columns, published, with a slot before its first row."""
        name = sql.Identifier(table)
        self._connection.execute(sql.SQL(columns).format(table=name))
        self._connection.execute(
            sql.SQL("CREATE PUBLICATION {name} FOR TABLE {name}").format(name=name)
        )
        self.ask("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", table)

    def publish_all(self, publication: str) -> None:
        """Publish every table there is and will be; made once."""
        name = sql.Identifier(publication)
        if not self.ask("SELECT 1 FROM pg_publication WHERE pubname = %s", publication):
            self._connection.execute(
                sql.SQL("CREATE PUBLICATION {name} FOR ALL TABLES").format(name=name)
            )

    def fill(self, case: Case) -> None:
        """Load the case's rows; what is committed is on disk when it returns.

        The slot of a case whose log is not read begins behind them.
        """
        names = {"table": sql.Identifier(case.table), "load": sql.Identifier(f"fill_{case.table}")}
        self._connection.execute(sql.SQL(_LOAD).format(**names))
        self._connection.execute("SET synchronous_commit = off")
        self._connection.execute(
            sql.SQL("CALL {load}(%s, %s)").format(**names),
            (case.rows, case.per_transaction or case.rows),
        )
        self._connection.execute("RESET synchronous_commit")
        self._connection.execute("CHECKPOINT")
        if not case.per_transaction:
            self._renew(case.table)

    def create_wide(self, table: str, rows: int) -> None:
        """A table of rows of 1 MB, stored as they are, with a slot behind them."""
        self.create(table, _WIDE_TABLE)
        query = sql.SQL(
            "INSERT INTO {} SELECT i, repeat('x', 1 << 20) FROM generate_series(1, {}) AS i"
        )
        self._connection.execute(query.format(sql.Identifier(table), sql.Literal(rows)))
        self._renew(table)

    def end(self) -> str:
        """Where the log ends, an LSN."""
        return self.ask("SELECT pg_current_wal_lsn()")

    def _renew(self, slot: str) -> None:
        self.drop(slot)
        self.ask("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", slot)

    @contextmanager
    def slot(self, of: str, name: str) -> Iterator[str]:
        """A copy of the slot `of`, at the same position; dropped afterwards."""
        self.ask("SELECT pg_copy_logical_replication_slot(%s::name, %s::name)", of, name)
        try:
            yield name
        finally:
            self.drop(name)

    def drop(self, slot: str) -> None:
        """Drop the slot once nobody reads from it any more."""
        deadline = time.monotonic() + 30
        while self._there(slot) and time.monotonic() < deadline:
            self.ask(_DROP, slot)
            time.sleep(0.01)

    def remove(self, table: str) -> None:
        """Drop the table with all that was made for it."""
        self.drop(table)
        name, load = sql.Identifier(table), sql.Identifier(f"fill_{table}")
        for statement in (
            "PUBLICATION IF EXISTS {name}",
            "PROCEDURE IF EXISTS {load}",
            "TABLE {name}",
        ):
            self._connection.execute(sql.SQL(f"DROP {statement}").format(name=name, load=load))

    def _there(self, slot: str) -> bool:
        return bool(self.ask("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", slot))

    def active(self, slot: str) -> bool:
        query = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND active"
        return bool(self.ask(query, slot))

    def program(self, name: str) -> Path:
        """Of the server's own installation where it is there."""
        own = self.server.bin / name
        return own if own.exists() else Path(shutil.which(name) or own)
