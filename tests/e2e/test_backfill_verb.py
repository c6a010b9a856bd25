"""``cdc backfill``: asked of a pipeline that runs in another process, or of one that stands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg
import pytest

from e2e.command import Cdc, until
from e2e.history import in_file

Make = Callable[..., Cdc]


@pytest.fixture
def shop(database: str) -> str:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY, n int)")
        connection.execute("INSERT INTO orders SELECT n, n % 10 FROM generate_series(1, 100) n")
    return database


def backfill(pipeline: Cdc, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tailrace", "backfill", *arguments, *pipeline.keys]
    return subprocess.run(
        command, cwd=pipeline.folder, capture_output=True, text=True, timeout=60, check=False
    )


def keys(path: Path) -> list[int]:
    return [event.after["id"] for event in in_file(path) if event.op == "r" and event.after]


@pytest.mark.parametrize("store", ["sqlite", "file"])
def test_a_running_pipeline_reads_the_table_again(
    cdc: Make, shop: str, tmp_path: Path, store: str
) -> None:
    out = tmp_path / "out.jsonl"
    (tmp_path / "file").mkdir()
    pipeline = cdc("sink=file", f"sink.path={out}", f"checkpoint={store}:{tmp_path / store}")
    pipeline.start()
    until(lambda: len(keys(out)) == 100, "the first rows")
    done = backfill(pipeline, "public.orders", "--where", "n = 3", "--wait")
    assert done.returncode == 0, done.stderr
    assert "asked pipeline orders to read public.orders" in done.stdout
    assert done.stdout.endswith("public.orders: 10 rows, done\n")
    assert keys(out)[100:] == list(range(3, 100, 10))
    pipeline.stop()


def test_one_that_stands_reads_it_at_its_next_start(cdc: Make, shop: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    pipeline = cdc("sink=file", f"sink.path={out}")
    pipeline.once()
    assert backfill(pipeline, "public.orders").returncode == 0
    pipeline.once()
    assert sorted(keys(out)) == sorted([*range(1, 101)] * 2)
    pipeline.once()
    assert len(keys(out)) == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["public.order"], ["'public.order' is not captured", "did you mean public.orders?"]),
        (["public.orders", "--where", "m = 1"], ['column "m" does not exist', "WHERE"]),
        (["public.orders", "extra=1"], ["unknown key 'extra'"]),
    ],
)
def test_what_cannot_be_asked_for(
    cdc: Make, shop: str, tmp_path: Path, arguments: Sequence[str], said: Sequence[str]
) -> None:
    pipeline = cdc("sink=file", f"sink.path={tmp_path / 'out.jsonl'}")
    pipeline.once()
    done = backfill(pipeline, *arguments)
    assert done.returncode == 2
    for part in said:
        assert part in done.stderr


def test_a_pipeline_that_has_not_started_needs_none(cdc: Make, shop: str, tmp_path: Path) -> None:
    pipeline = cdc("sink=file", f"sink.path={tmp_path / 'out.jsonl'}")
    done = backfill(pipeline, "public.orders")
    assert done.returncode == 2
    assert "its first start reads the rows" in done.stderr
