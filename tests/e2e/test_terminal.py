"""C06 and C19: a pipeline that may not go on says so at every start, until somebody acts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from e2e.command import Cdc
from e2e.history import in_file

Make = Callable[..., Cdc]
Spoil = Callable[[psycopg.Connection, Path], object]

LOST = 3


def advance(connection: psycopg.Connection, folder: Path) -> None:
    """What another tool does, or a standby that was promoted late."""
    connection.execute("SELECT pg_replication_slot_advance('orders', pg_current_wal_lsn())")


def drop(connection: psycopg.Connection, folder: Path) -> None:
    connection.execute("SELECT pg_drop_replication_slot('orders')")


def forget(connection: psycopg.Connection, folder: Path) -> None:
    for path in folder.glob("cdc.db*"):
        path.unlink()


@pytest.fixture
def stopped(cdc: Make, database: str, tmp_path: Path) -> Cdc:
    """A pipeline that has delivered row 1, and has not run since row 2 was written."""
    pipeline = cdc("sink=file", f"sink.path={tmp_path / 'out.jsonl'}")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        pipeline.once()
        connection.execute("INSERT INTO t VALUES (2)")
    return pipeline


def delivered(pipeline: Cdc) -> list[int]:
    seen = in_file(pipeline.folder / "out.jsonl")
    return [event.after["id"] for event in seen if event.after]


def refused(pipeline: Cdc, *arguments: str) -> str:
    """Why it does not run: the line of the error."""
    pipeline.start(*arguments)
    assert pipeline.wait() == LOST, pipeline.said
    [why] = re.findall("error: .*", pipeline.said)
    return str(why)


def test_c06_a_slot_that_was_confirmed_ahead_of_the_checkpoint(
    stopped: Cdc, database: str, tmp_path: Path
) -> None:
    """The server would begin at the slot's place without a word, and row 2 would be lost."""
    with psycopg.connect(database, autocommit=True) as connection:
        advance(connection, tmp_path)
        assert "ahead of the saved position" in refused(stopped)
        connection.execute("INSERT INTO t VALUES (3)")
        assert "ahead of the saved position" in refused(stopped)
    assert delivered(stopped) == [1]


@pytest.mark.parametrize("spoil", [advance, drop, forget])
def test_c19_what_is_terminal_stays_so_over_restarts_until_somebody_acts(
    stopped: Cdc, database: str, tmp_path: Path, spoil: Spoil
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        spoil(connection, tmp_path)
        first = refused(stopped)
        for arguments in ([], ["--once"], []):
            connection.execute("INSERT INTO t SELECT max(id) + 1 FROM t")
            assert refused(stopped, *arguments) == first
        assert delivered(stopped) == [1]
        stopped.start("--once", "on_lost=resnapshot")
        assert stopped.wait() == 0, stopped.said
        assert sorted(set(delivered(stopped))) == [1, 2, 3, 4, 5]
        connection.execute("INSERT INTO t VALUES (6)")
    stopped.once()
    assert delivered(stopped)[-1] == 6
