"""Two readings of one log: what Tailrace delivers, and what test_decoding prints, are the same.

Histories are made at random. ``TAILRACE_SEED`` repeats those of a run; a failure shows the smallest
history that still fails.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Sequence
from itertools import count, groupby
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from psycopg import pq
from psycopg.adapt import Transformer

from differential.decodingtext import Columns, Left, Told, ToldTransaction, transactions
from differential.histories import Block, Commit, Copy, Statement, histories
from pipelines import delivered_once, images
from tailrace.event import Event
from tailrace.stores.memory import MemoryStore
from tailrace.values import to_json
from tailrace_postgres.connecting import PIN

Row = dict[str, Any]
Change = tuple[str, tuple[str, ...], Row | None, Row | None]
"""Op, table, the old row and the new one, each as far as the log carries it."""

_SLOT = "oracle"


class Server:
    """A database in which histories happen, each in a schema of its own, read in both ways."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._connection.execute(PIN)
        self._dsn = dsn
        self._store = MemoryStore()
        self._schemas = count(1)
        self._texts = Transformer(self._connection)
        self._execute("CREATE TABLE first (id int PRIMARY KEY)")
        self._delivered()
        self._execute(f"SELECT pg_create_logical_replication_slot('{_SLOT}', 'test_decoding')")

    def close(self) -> None:
        self._connection.close()

    def read(self, history: Sequence[Commit]) -> tuple[list[Event], list[ToldTransaction]]:
        """What happened, as we deliver it and as test_decoding tells it."""
        schema = f"h{next(self._schemas)}"
        self._execute(f"CREATE SCHEMA {schema}")
        self._execute(f"SET search_path TO {schema}")
        for commit in history:
            self._commit(commit)
        events, told = self._delivered(), transactions(self._told())
        self._execute(f"DROP SCHEMA {schema} CASCADE")
        return events, told

    def _delivered(self) -> list[Event]:
        return delivered_once(self._dsn, self._store, snapshot="never")

    def _told(self) -> Iterable[str]:
        query = "SELECT data FROM pg_logical_slot_get_changes(%s, NULL, NULL)"
        return (data for (data,) in self._connection.execute(query, [_SLOT]))

    def _execute(self, statement: str) -> None:
        self._connection.execute(statement.encode())

    def _commit(self, commit: Commit) -> None:
        with self._connection.transaction(force_rollback=not commit.kept):
            self._run(commit.statements)

    def _run(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            if isinstance(statement, Block):
                with self._connection.transaction(force_rollback=not statement.kept):
                    self._run(statement.statements)
            elif isinstance(statement, Copy):
                with self._connection.cursor().copy(statement.into.encode()) as copy:
                    for row in statement.rows:
                        copy.write_row(row)
            else:
                self._execute(statement)

    def value(self, type: str, text: str) -> Any:
        """What psycopg makes of the text; the text itself where Python has no such value."""
        if type in ("text", "json", "jsonb"):
            return text
        if type == "boolean":
            return text == "true"
        if type in ("numeric", "double precision") and not text[-1].isdigit():
            return text
        known = self._connection.adapters.types[type]
        oid = known.array_oid if type.endswith("[]") else known.oid
        try:
            return self._texts.get_loader(oid, pq.Format.TEXT).load(text.encode())
        except psycopg.DataError:
            return text


def told(server: Server, transaction: ToldTransaction) -> list[Change]:
    return [
        (change.op, table, *rows_told(server, change))
        for change in transaction.changes
        for table in change.tables
    ]


def rows_told(server: Server, change: Told) -> tuple[Row | None, Row | None]:
    """A column left out of the new row is the old row's, where there is one."""
    new = change.new
    if new is not None:
        old = change.old or {}
        filled = {n: old.get(n, c) if c[1] is Left.OUT else c for n, c in new.items()}
        new = {name: column for name, column in filled.items() if column[1] is not Left.OUT}
    return row_told(server, change.old), row_told(server, new)


def row_told(server: Server, columns: Columns | None) -> Row | None:
    if columns is None:
        return None
    return {
        name: server.value(type, text) if isinstance(text, str) else None
        for name, (type, text) in columns.items()
    }


def delivered(event: Event) -> Change:
    """test_decoding leaves nulls out of an old row; so do we here."""
    before = event.before
    old = None if before is None else {n: v for n, v in before.items() if v is not None}
    return event.op, event.table.path, old, None if event.after is None else dict(event.after)


def check_json(event: Event) -> None:
    """What is written says what the rows hold."""
    rows = {"key": event.key, "before": event.before, "after": event.after}
    members = {**rows, "unavailable": event.unavailable}
    assert images(event) == json.loads(to_json(members).encode("latin-1"))


def compare(server: Server, history: Sequence[Commit]) -> None:
    events, transactions = server.read(history)
    groups = [(txid, list(group)) for txid, group in groupby(events, lambda event: event.txid)]
    assert [txid for txid, _ in groups] == [transaction.xid for transaction in transactions]
    for (_, group), transaction in zip(groups, transactions, strict=True):
        assert list(map(delivered, group)) == told(server, transaction)
        for event in group:
            check_json(event)


@pytest.fixture
def server(database15: str) -> Iterable[Server]:
    server = Server(database15)
    yield server
    server.close()


@pytest.mark.parametrize(
    ("seed", "examples"),
    [pytest.param(1, 25, id="few"), pytest.param(None, 400, id="many", marks=pytest.mark.torture)],
)
@pytest.mark.timeout(600)
def test_oracle_3_both_readings_of_a_history_are_the_same(
    server: Server, seed: int | None, examples: int
) -> None:
    number = int(os.environ.get("TAILRACE_SEED") or seed or random.randrange(1 << 32))
    print(f"TAILRACE_SEED={number}")

    @seeded(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(histories())
    def same(history: list[Commit]) -> None:
        compare(server, history)

    same()
