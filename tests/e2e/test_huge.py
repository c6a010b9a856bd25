"""C18: one transaction of a million rows, killed in its middle over and over."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psycopg
import pytest

from e2e.command import Cdc, needs_proc

Make = Callable[..., Cdc]
BATCH = 5_000
LIMIT = 150_000_000
KILLS = 3


class Row(msgspec.Struct):
    id: int


class Told(msgspec.Struct):
    id: str
    after: Row


@needs_proc
@pytest.mark.timeout(300)
@pytest.mark.parametrize("rows", [100_000, pytest.param(1_000_000, marks=pytest.mark.torture)])
def test_c18_a_huge_transaction_takes_little_memory_and_every_start_gets_further(
    cdc: Make, database: str, tmp_path: Path, rows: int
) -> None:
    out = tmp_path / "out.jsonl"
    pipeline = cdc("sink=file", f"sink.path={out}", f"batch.events={BATCH}")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, filler text)")
        pipeline.once()
        query = "INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, {}) n"
        connection.execute(query.format(rows).encode())
    peaks, passings = [], rows // BATCH // (KILLS + 1)
    for kill in [True] * KILLS + [False]:
        pipeline.start("--once", failpoint=f"durable:{passings}:kill" if kill else "")
        peaks.append(until_ended(pipeline))
        assert pipeline.wait() == (-9 if kill else 0), pipeline.said
    assert 0 < max(peaks) < LIMIT
    places = re.findall("starting at (.*):([0-9]+)", pipeline.log.read_text())
    assert len({lsn for lsn, _ in places}) == 1, "it is one transaction"
    dones = [int(done) for _, done in places]
    assert dones == sorted(set(dones))
    assert len(dones) == KILLS, "no start after a kill was at the beginning again"
    assert check(out, rows) <= KILLS * BATCH


def until_ended(pipeline: Cdc) -> int:
    """The most memory that it was seen to have."""
    peak = 0
    while pipeline.running:
        peak = max(peak, pipeline.peak)
        time.sleep(0.02)
    return peak


def check(out: Path, rows: int) -> int:
    """Every row is there, in order, under the id of its place; how many came again."""
    decode, following, repeats = msgspec.json.Decoder(Told).decode, 1, 0
    with out.open("rb") as lines:
        for line in lines:
            told = decode(line)
            assert told.id.endswith(f":{told.after.id}")
            assert told.after.id <= following, f"{following} is missing, or out of order"
            repeats += told.after.id < following
            following += told.after.id == following
    assert following == rows + 1
    return repeats
