"""C13: a checkpoint that is not what it was ends the run by name, and nothing is delivered."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from msgspec.structs import replace

from e2e.command import Cdc
from e2e.history import in_file
from tailrace.checkpoint import Checkpoint, CheckpointStore
from tailrace.stores.file import FileStore
from tailrace.stores.sqlite import SqliteStore

Make = Callable[..., Cdc]
Spoil = Callable[[Path], None]


def location(folder: Path, store: str) -> Path:
    return folder / ("checkpoints" if store == "file" else "cdc.db")


def edit(store: CheckpointStore, change: Callable[[Checkpoint], Checkpoint]) -> None:
    async def work() -> None:
        async with store:
            checkpoint = await store.load("orders")
            assert checkpoint
            await store.save("orders", change(checkpoint))

    asyncio.run(work())


def open_store(path: Path) -> CheckpointStore:
    return FileStore(str(path)) if path.is_dir() else SqliteStore(str(path))


def missing(path: Path) -> None:
    for each in path.parent.glob("cdc.db*"):
        each.unlink()
    for each in path.glob("*"):
        each.unlink()


def foreign(path: Path) -> None:
    edit(open_store(path), lambda checkpoint: replace(checkpoint, source="pg:1"))


def newer(path: Path) -> None:
    edit(open_store(path), lambda checkpoint: replace(checkpoint, version=2))


def unknown_position(path: Path) -> None:
    edit(open_store(path), lambda checkpoint: replace(checkpoint, position="elsewhere"))


def truncated(path: Path) -> None:
    if path.is_dir():
        path = path / "orders.json"
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.write_bytes(path.read_bytes()[:6_000])
        for each in path.parent.glob("cdc.db-*"):
            each.unlink()


def altered(path: Path) -> None:
    """Still good JSON, but not what was saved."""
    if path.is_dir():
        path = path / "orders.json"
        path.write_bytes(path.read_bytes().replace(b'"rows":3', b'"rows":4'))
        return
    with sqlite3.connect(path) as db:
        [(payload,)] = db.execute("SELECT payload FROM checkpoint").fetchall()
        db.execute("UPDATE checkpoint SET payload = ?", [payload.replace(b'"rows":3', b'"rows":4')])
    db.close()


@pytest.mark.parametrize("store", ["sqlite", "file"])
@pytest.mark.parametrize(
    ("spoil", "status", "message"),
    [
        (missing, 3, "replication slot 'orders' is there, but pipeline 'orders' has no checkpoint"),
        (foreign, 3, "the checkpoint of pipeline 'orders' is for pg:1, but the database is pg:"),
        (newer, 1, "has version 2; this Tailrace reads up to 1"),
        (unknown_position, 1, "'elsewhere' is not a PostgreSQL position"),
        (truncated, 1, "the checkpoint in"),
        (altered, 1, "its checksum does not match"),
    ],
)
def test_c13_a_spoiled_checkpoint(
    cdc: Make, database: str, tmp_path: Path, store: str, spoil: Spoil, status: int, message: str
) -> None:
    out, path = tmp_path / "out.jsonl", location(tmp_path, store)
    if store == "file":
        path.mkdir()
    pipeline = cdc("sink=file", f"sink.path={out}", f"checkpoint={store}:{path}")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT n AS id FROM generate_series(1, 3) n")
        connection.execute("ALTER TABLE t ADD PRIMARY KEY (id)")
        pipeline.once()
        connection.execute("INSERT INTO t VALUES (4)")
    spoil(path)
    pipeline.start("--once")
    assert pipeline.wait() == status, pipeline.said
    assert f"error: {message}" in pipeline.said or message in pipeline.said
    assert "\n  -> " in pipeline.said
    assert "Traceback" not in pipeline.said
    assert [event.op for event in in_file(out)] == ["r"] * 3
