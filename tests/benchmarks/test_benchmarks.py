"""The benchmark runs and counts right; how fast anything is, is never a test."""

from __future__ import annotations

from pathlib import Path

import psycopg

from benchmarks.children import Usage
from benchmarks.contenders import RecvLogical
from benchmarks.database import Database
from benchmarks.plan import Case, Plan
from benchmarks.report import markdown, text
from benchmarks.results import Machine, Result, Streamed
from benchmarks.subscriber import summary
from benchmarks.throughput import measure
from benchmarks.writer import write
from tailrace_demo.servers import Postgres

ROWS = 300


def streamed(delivered: int) -> Streamed:
    case = Case("rows_whole", ROWS, ROWS)
    return Streamed("file", case, [Usage(2.0, 1.0, 10), Usage(1.0, 0.5, 20)], [delivered, ROWS])


def result(of: Streamed) -> Result:
    return Result(Plan(), Machine.this(), {}, streamed=[of])


def test_the_best_run_counts_and_the_highest_peak() -> None:
    best = streamed(ROWS)
    best.reference, best.start = 600.0, 0.5
    assert (best.rate, best.ratio, best.net_ratio, best.peak) == (300, 0.5, 1.0, 20)


def test_a_wrong_count_is_a_fault_and_is_printed() -> None:
    short = result(streamed(ROWS - 1))
    assert short.faults == ["file, one transaction of 300: delivered 299 of 300"]
    assert "COUNTS ARE WRONG" in text(short)
    assert "299: WRONG" in markdown(short)
    assert result(streamed(ROWS)).faults == []


def test_late_is_since_the_commit_and_since_the_writers_clock() -> None:
    row = b'{"ts":"1970-01-01T00:00:01Z","after":{"id":%d,"at":"1970-01-01T00:00:00.5Z"}}'
    heard = summary([(9.0, row % 1), (1.25, row % 2)], skip=1)
    assert (heard.received, heard.commit.max, heard.write.max) == (2, 250, 750)


def test_every_turn_reads_the_same_rows_of_a_slot_of_its_own(
    postgres: Postgres, tmp_path: Path
) -> None:
    class Counting(RecvLogical):
        """pg_recvlogical into a file, so that its rows can be counted."""

        def command(self, table: str, slot: str) -> list[str]:
            command = super().command(table, slot)
            return [str(self.folder / "out") if word == "/dev/null" else word for word in command]

        def delivered(self) -> int:
            out = self.folder / "out"
            found = out.read_bytes().count(b"some")
            out.unlink()
            return found

    database = Database(postgres)
    case = Case("rows_tested", ROWS, 100)
    try:
        [done] = measure(database, case, [Counting(database, tmp_path)], 2, {})
        assert done.delivered == [ROWS] * 3
        assert (
            database.ask(
                "SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ 'bench_|rows_'"
            )
            == "0"
        )
        assert write(postgres.dsn, "rows_tested", 1_000, 1, 0.0)[0] == 0
    finally:
        database.close()
        with psycopg.connect(postgres.dsn, autocommit=True) as connection:
            for what in ("PUBLICATION", "PROCEDURE", "TABLE"):
                name = "fill_rows_tested" if what == "PROCEDURE" else "rows_tested"
                connection.execute(f"DROP {what} {name}")
