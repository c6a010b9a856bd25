"""S01: the password in ``checkpoint`` is never said, whatever is done and whatever goes wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from e2e.command import Cdc
from tailrace_demo.servers import Nats

CANARY = "c4n4ry-Pa55"

Make = Callable[..., Cdc]


def address(store: str, database: str, nats: Nats) -> str:
    """The servers take any password."""
    if store == "nats":
        return f"nats://joe:{CANARY}@127.0.0.1:{nats.port}/pipelines"
    return database.replace("postgres@", f"postgres:{CANARY}@")


@pytest.mark.parametrize("store", ["postgres", "nats"])
def test_s01_the_password_of_a_store_is_never_said(
    cdc: Make, database: str, nats: Nats, tmp_path: Path, store: str
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    where = address(store, database, nats)
    down = where.replace("127.0.0.1", "127.0.0.1:1,127.0.0.1").rpartition(",")[0]
    out = f"sink.path={tmp_path / 'out.jsonl'}"
    keys = ("source.tables=public.t", "sink=file", out, f"checkpoint={where}")
    pipeline = cdc(*keys)

    def said(*arguments: str, given: str = where) -> str:
        arguments += ("name=orders", f"checkpoint={given}")
        command = [sys.executable, "-m", "tailrace", *arguments, "-v"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    everything = [
        str(pipeline.start("--once", "-v").wait()),
        pipeline.said,
        said("checkpoint", "show"),
        said("config", "show", *pipeline.keys[:2], *keys[:3]),
        said("checkpoint", "set", "0/1"),
        said("checkpoint", "delete", "--yes"),
        said("checkpoint", "show", given=down),
        said("checkpoint", "show", given=where.replace(CANARY, f"{CANARY}/x")),
    ]
    for part in everything:
        assert CANARY not in part
    assert everything[0] == "0"
    for part, words in zip(
        everything[2:],
        ("epoch", ":***@", "instead of", "is deleted", "cannot be reached", "is not followed by"),
        strict=True,
    ):
        assert words in part
