"""Histories: writers with known effects, what was delivered of them, and whether that is right.

Each of `History`'s tables comes in two kinds. ``journal_N`` is only appended to, one row for each
(writer, seq). Rows of ``accounts_N`` are inserted, updated, deleted and given other keys; every
write has a higher version than the one before. Each writer has accounts of its own, so versions
grow for each key. Some transactions are rolled back.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from nats.js.api import AckPolicy, ConsumerConfig

from jetstream import api, client

_NOTE = "lorem ipsum dolor sit amet, consetetur sadipscing elitr "

Row = dict[str, Any]


class Seen(msgspec.Struct):
    """A delivered event: what the checker looks at, and the whole body."""

    id: str
    op: str
    source: dict[str, Any]
    key: Row | None
    before: Row | None
    after: Row | None
    body: bytes = b""

    @property
    def table(self) -> str:
        return str(self.source["table"])


_decoder = msgspec.json.Decoder(Seen)


def parse(bodies: Iterable[bytes]) -> list[Seen]:
    seen = []
    for body in bodies:
        event = _decoder.decode(body)
        event.body = body
        seen.append(event)
    return seen


def in_file(path: Path) -> list[Seen]:
    """What the sink `file` has written; a torn last line does not count."""
    data = path.read_bytes() if path.exists() else b""
    return parse(data[: data.rfind(b"\n") + 1].splitlines())


async def in_stream(url: str, name: str) -> list[Seen]:
    """What a JetStream stream holds; each message's id must be its event's."""
    seen: list[Seen] = []
    async with client(url) as connection:
        left = (await api(connection, f"STREAM.INFO.{name}"))["state"]["messages"]
        jetstream = connection.jetstream()
        config = ConsumerConfig(ack_policy=AckPolicy.NONE)
        consumer = await jetstream.pull_subscribe("", stream=name, config=config)
        while left:
            messages = await consumer.fetch(min(left, 2_000), timeout=20)
            left -= len(messages)
            events = parse(message.data for message in messages)
            for message, event in zip(messages, events, strict=True):
                assert (message.headers or {})["Nats-Msg-Id"] == event.id
            seen += events
    return seen


class Writer(threading.Thread):
    """Commits transactions until stopped; connects again when the server goes away."""

    def __init__(self, history: History, number: int) -> None:
        super().__init__(name=f"writer {number}", daemon=True)
        self.number = number
        self.transactions = 0
        self.failure: BaseException | None = None
        self._history = history
        self._random = random.Random(f"{history.seed} {number}")
        self._tick = 0
        self._mine: dict[int, set[int]] = {}
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    self._write()
                except psycopg.OperationalError:
                    time.sleep(0.1)
        except BaseException as error:
            self.failure = error

    def _write(self) -> None:
        with psycopg.connect(self._history.dsn, connect_timeout=5) as connection:
            self._look(connection)
            while not self._stopped.is_set():
                self._transact(connection)
                self._stopped.wait(self._history.pace * self._random.random() * 2)

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        """Which accounts are there; after a broken connection nobody else knows."""
        writers = self._history.writers
        for table in range(self._history.tables):
            query = f"SELECT id FROM accounts_{table} WHERE id %% {writers} = %s"
            self._mine[table] = {id for (id,) in connection.execute(query, [self.number])}
        connection.commit()

    def _transact(self, connection: psycopg.Connection[Any]) -> None:
        table = self._random.randrange(self._history.tables)
        kept = set(self._mine[table])
        for _ in range(self._random.choice((1, 1, 1, 3, 20))):
            self._append(connection, table)
            self._change_account(connection, table)
        if self._random.random() < 0.05:
            connection.rollback()
            self._mine[table] = kept
        else:
            connection.commit()
            self.transactions += 1

    def _next(self) -> int:
        self._tick = max(self._tick + 1, self._history.base)
        return self._tick

    def _append(self, connection: psycopg.Connection[Any], table: int) -> None:
        """One row, or several by one statement."""
        rows = [(self.number, self._next()) for _ in range(self._random.choice((1, 1, 4)))]
        values = ", ".join(f"({writer}, {seq}, '{_NOTE}')" for writer, seq in rows)
        connection.execute(f"INSERT INTO journal_{table} VALUES {values}")

    def _change_account(self, connection: psycopg.Connection[Any], table: int) -> None:
        mine, name = self._mine[table], f"accounts_{table}"
        action = self._random.choice(("update", "update", "update", "insert", "delete", "move"))
        version = self._next()
        if action == "insert" or not mine:
            new = self._free(mine)
            mine.add(new)
            connection.execute(f"INSERT INTO {name} VALUES (%s, %s, %s)", [new, version, _NOTE])
            return
        id = self._random.choice(sorted(mine)[:50])
        if action == "delete":
            mine.remove(id)
            connection.execute(f"DELETE FROM {name} WHERE id = %s", [id])
        elif action == "update":
            connection.execute(f"UPDATE {name} SET version = %s WHERE id = %s", [version, id])
        else:
            new = self._free(mine)
            mine.symmetric_difference_update({id, new})
            query = f"UPDATE {name} SET id = %s, version = %s WHERE id = %s"
            connection.execute(query, [new, version, id])

    def _free(self, mine: set[int]) -> int:
        """A key of this writer that is not in use: often one that was, below and above others."""
        while True:
            limit = 2 * self._history.rows // self._history.writers + 100
            id = self._random.randrange(limit) * self._history.writers + self.number
            if id not in mine:
                return id


class History:
    """`tables` of each kind with `rows` rows to begin with, and `writers` that change them.

    Each writer rests about `pace` seconds between transactions.
    """

    base = 1_000_000

    def __init__(
        self,
        dsn: str,
        *,
        seed: str = "",
        tables: int = 2,
        rows: int = 2_000,
        writers: int = 3,
        pace: float = 0.004,
    ) -> None:
        self.dsn = dsn
        self.seed = seed
        self.tables = tables
        self.rows = rows
        self.writers = writers
        self.pace = pace

    @property
    def names(self) -> list[str]:
        return [f"{kind}_{n}" for kind in ("journal", "accounts") for n in range(self.tables)]

    def create(self) -> None:
        """The tables, with their rows."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for n in range(self.tables):
                connection.execute(
                    f"CREATE TABLE journal_{n} (writer int, seq int, note text,"
                    " PRIMARY KEY (writer, seq));"
                    f"CREATE TABLE accounts_{n} (id bigint PRIMARY KEY, version int, note text);"
                    f"INSERT INTO journal_{n} SELECT -1, n, '{_NOTE}'"
                    f" FROM generate_series(1, {self.rows}) n;"
                    f"INSERT INTO accounts_{n} SELECT n, n, '{_NOTE}'"
                    f" FROM generate_series(1, {self.rows}) n"
                )

    @contextmanager
    def writing(self) -> Iterator[list[Writer]]:
        """Writers at work; at the end all have committed what they will."""
        writers = [Writer(self, number) for number in range(self.writers)]
        for writer in writers:
            writer.start()
        try:
            yield writers
        finally:
            for writer in writers:
                writer.stop()
            for writer in writers:
                writer.join(60)
        failures = [writer.failure for writer in writers if writer.failure]
        assert not failures, failures
        assert not any(writer.is_alive() for writer in writers)
        # Another run of writers goes on above these.
        self.base = max(self.base, *(writer._tick + 1 for writer in writers))

    def truth(self) -> Truth:
        """What the tables hold now."""
        truth = Truth()
        with psycopg.connect(self.dsn) as connection:
            for n in range(self.tables):
                name = f"journal_{n}"
                rows = connection.execute(f"SELECT writer, seq FROM {name}").fetchall()
                truth.journals[name] = set(rows)
                name = f"accounts_{n}"
                rows = connection.execute(f"SELECT id, version FROM {name}").fetchall()
                truth.accounts[name] = dict(rows)
        return truth


@dataclass
class Truth:
    journals: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    accounts: dict[str, dict[int, int]] = field(default_factory=dict)

    def check(self, seen: Sequence[Seen], *, repeats: int | None = None) -> None:
        """Nothing lost, nothing invented, order per key, ids stable; AssertionError if not.

        At most `repeats` events may have come more than once. The message shows the first event
        that is wrong.
        """
        once = without_repeats(seen)
        if repeats is not None:
            again = len(seen) - len(once)
            assert again <= repeats, f"{again} events came again, {repeats} may"
        for name, rows in self.journals.items():
            check_journal(name, rows, [event for event in once if event.table == name])
        for name, state in self.accounts.items():
            check_accounts(name, state, [event for event in once if event.table == name])


def without_repeats(seen: Sequence[Seen]) -> list[Seen]:
    """The first of each id; the others must be the same to the byte."""
    first: dict[str, Seen] = {}
    for event in seen:
        known = first.setdefault(event.id, event)
        if known.body != event.body:
            raise AssertionError(
                f"id {event.id} stands for two events:\n{known.body!r}\n{event.body!r}"
            )
    return list(first.values())


def check_journal(name: str, rows: set[tuple[int, int]], events: Sequence[Seen]) -> None:
    delivered = set()
    last: dict[int, Seen] = {}
    for event in events:
        assert event.op in "cr", f"{name} is only appended to: {event.body!r}"
        assert event.after is not None
        writer, seq = event.after["writer"], event.after["seq"]
        delivered.add((writer, seq))
        if event.op != "c":
            continue
        before = last.get(writer)
        if before is not None and before.after is not None and before.after["seq"] > seq:
            raise AssertionError(f"{name}: out of order:\n{before.body!r}\n{event.body!r}")
        last[writer] = event
    lost, invented = rows - delivered, delivered - rows
    assert not lost, f"{name}: {len(lost)} rows lost, the first is {min(lost)}"
    assert not invented, f"{name}: {len(invented)} rows never committed, {min(invented)} among them"


def check_accounts(name: str, state: dict[int, int], events: Sequence[Seen]) -> None:
    folded: dict[int, int] = {}
    newest: dict[int, Seen] = {}
    for event in events:
        assert event.key is not None
        id = event.key["id"]
        if event.before and event.before.get("id", id) != id:
            folded.pop(event.before["id"], None)
        if event.after is None:
            folded.pop(id, None)
            continue
        known = newest.get(id)
        if known is not None and _version(known) > _version(event):
            raise AssertionError(f"{name}: older after newer:\n{known.body!r}\n{event.body!r}")
        newest[id] = event
        folded[id] = event.after["version"]
    wrong = sorted(id for id in folded.keys() | state.keys() if folded.get(id) != state.get(id))
    if wrong:
        id = wrong[0]
        told = b"\n".join(e.body for e in events if _concerns(e, id))
        raise AssertionError(
            f"{name}: {len(wrong)} rows differ; row {id} has version {state.get(id)}, by the"
            f" events {folded.get(id)}:\n{told.decode()}"
        )


def _version(event: Seen) -> int:
    assert event.after is not None
    return int(event.after["version"])


def _concerns(event: Seen, id: int) -> bool:
    return any(row is not None and row.get("id") == id for row in (event.key, event.before))
