"""Killed at the worst moments, a pipeline loses nothing and repeats at most one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from e2e.command import Cdc, until
from e2e.history import History, Seen, in_file, in_stream, without_repeats
from jetstream import count
from servers.proxy import Proxy
from tailrace_demo.servers import Nats, Postgres

Make = Callable[..., Cdc]
BATCH = 200
SMALL = (f"batch.events={BATCH}", f"snapshot.chunk={BATCH}")


def stream(nats: Nats) -> list[Seen]:
    return asyncio.run(in_stream(nats.url, "orders"))


def stored(nats: Nats) -> int:
    return asyncio.run(count(nats.url))


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("read", id="C01"),
        pytest.param("durable", id="C03"),
        pytest.param("saved", id="C05"),
        pytest.param("chunk", id="C08"),
    ],
)
def test_c01_c03_c05_c08_killed_at_a_failpoint(
    cdc: Make, database: str, tmp_path: Path, point: str
) -> None:
    history, out = History(database), tmp_path / "out.jsonl"
    history.create()
    pipeline = cdc("sink=file", f"sink.path={out}", *SMALL)
    passings = (1, 7, 3)
    with history.writing():
        for passing in passings:
            pipeline.start(failpoint=f"{point}:{passing}:kill").until_died()
    pipeline.once()
    history.truth().check(in_file(out), repeats=len(passings) * BATCH)


def test_c02_killed_after_sending_before_the_acknowledgement(
    cdc: Make, database: str, nats: Nats, proxy: Callable[[int], Proxy]
) -> None:
    history, way = History(database), proxy(nats.port)
    history.create()
    pipeline = cdc("sink=nats", f"sink.url=nats://127.0.0.1:{way.port}", *SMALL)
    while not sent_without_acknowledgement(history, pipeline, way, nats):
        pass
    pipeline.once()
    history.truth().check(stream(nats))


def sent_without_acknowledgement(history: History, pipeline: Cdc, way: Proxy, nats: Nats) -> bool:
    """Kill it with events on the way to NATS; whether any have arrived after its end."""
    pipeline.start()
    pipeline.until_caught_up()
    before = stored(nats)
    way.freeze()
    with history.writing() as writers:
        until(lambda: writers[0].transactions > 50, "something to send")
    pipeline.kill()
    assert stored(nats) == before
    way.thaw()
    until(lambda: way.connections == 0, "the end of the old connections")
    return stored(nats) > before


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.torture)])
@pytest.mark.parametrize("store", ["sqlite", "file"])
def test_c04_killed_while_the_checkpoint_is_written(
    cdc: Make, database: str, tmp_path: Path, store: str, kills: int
) -> None:
    """Small batches: it is nearly always saving."""
    history, out = History(database, rows=200), tmp_path / "out.jsonl"
    history.create()
    (tmp_path / "file").mkdir()
    keys = ("sink=file", f"sink.path={out}", f"checkpoint={store}:{tmp_path / store}")
    pipeline = cdc(*keys, "sink.fsync=false", "batch.events=20", "snapshot.chunk=20")
    with history.writing():
        for _ in range(kills):
            size = out.stat().st_size if out.exists() else 0
            pipeline.start()
            until_grown(out, size + 5_000)
            pipeline.kill()
    cdc(*keys).once()
    history.truth().check(in_file(out), repeats=kills * 20)


def until_grown(path: Path, size: int) -> None:
    until(lambda: path.exists() and path.stat().st_size > size, f"{path} to grow")


def confirmed(database: str) -> int:
    with psycopg.connect(database) as connection:
        query = "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots"
        [(lsn,)] = connection.execute(query).fetchall()
        return int(lsn)


def test_c08_killed_between_the_last_chunk_and_the_stream(
    cdc: Make, database: str, tmp_path: Path
) -> None:
    """Everything has been read once, and nothing of the last table delivered."""
    history, out = History(database, tables=1, rows=150), tmp_path / "out.jsonl"
    history.create()
    pipeline = cdc("sink=file", f"sink.path={out}", *SMALL)
    pipeline.start(failpoint="chunk:2:kill").until_died()
    # The first table's rows may have been written by now, or still wait for the sink.
    assert "journal_0" not in {event.table for event in in_file(out)}
    with history.writing() as writers:
        until(lambda: writers[0].transactions > 50, "changes that no stream sees yet")
        pipeline.start(failpoint="chunk:2:kill").until_died()
    pipeline.once()
    history.truth().check(in_file(out), repeats=2 * BATCH)


def test_c09_rows_change_while_their_chunk_is_read(
    cdc: Make, database: str, postgres: Postgres, proxy: Callable[[int], Proxy], tmp_path: Path
) -> None:
    """One chunk over a slow connection, and every row of it is written to meanwhile."""
    history, way, out = (
        History(database, tables=1, rows=2_000),
        proxy(postgres.port),
        tmp_path / "o",
    )
    history.create()
    dsn = database.replace(f":{postgres.port}/", f":{way.port}/")
    pipeline = cdc("sink=file", f"sink.path={out}", dsn=dsn)
    with history.writing() as writers:
        pipeline.start().until_said("starting at")
        way.slow(100_000)
        begun = [writer.transactions for writer in writers]
        until(lambda: writers[0].transactions > begun[0] + 150, "changes")
    way.slow(None)
    pipeline.until_caught_up(["accounts_0", "journal_0"])
    pipeline.stop()
    seen = in_file(out)
    history.truth().check(seen, repeats=0)
    read = {
        event.key["id"] for event in seen if event.op == "r" and event.key and "id" in event.key
    }
    assert set(range(1, history.rows + 1)) - read, "no row was left out for a change"


@pytest.mark.parametrize("how", ["copy", "rows by one statement", "row by row"])
def test_c07_killed_inside_a_transaction_of_100000_rows(
    cdc: Make, database: str, tmp_path: Path, how: str
) -> None:
    out, rows, batch = tmp_path / "out.jsonl", 100_000, 5_000
    pipeline = cdc("sink=file", f"sink.path={out}", f"batch.events={batch}")
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE many (id int PRIMARY KEY, twin int)")
        connection.commit()
        pipeline.once()
        [(before,)] = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchall()
        insert_many(connection, rows, how)
        connection.commit()
    for passing in (4, 5):
        pipeline.start(failpoint=f"durable:{passing}:kill").until_died()
        assert 0 < len(in_file(out)) < rows, "not inside the transaction"
        assert confirmed(database) <= before
    pipeline.once()
    assert confirmed(database) > before
    seen = in_file(out)
    once = without_repeats(seen)
    assert [event.after["id"] for event in once if event.after] == list(range(rows))
    assert len(seen) - rows <= 2 * batch


def insert_many(connection: psycopg.Connection[tuple[object, ...]], rows: int, how: str) -> None:
    if how == "copy":
        with connection.cursor().copy("COPY many FROM STDIN") as copy:
            for n in range(rows):
                copy.write_row((n, n))
    elif how == "row by row":
        connection.execute(
            f"DO $$ BEGIN FOR n IN 0..{rows - 1} LOOP INSERT INTO many VALUES (n, n);"
            " END LOOP; END $$"
        )
    else:
        query = f"INSERT INTO many SELECT n, n FROM generate_series(0, {rows - 1}) n"
        connection.execute(query)
