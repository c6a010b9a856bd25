"""C16: whatever a plugin does wrong, the process ends, and says what it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from e2e.command import Cdc

Make = Callable[..., Cdc]

PLUGIN = """
import asyncio

from tailrace import hookimpl
from tailrace.config import PluginConfig
from tailrace.connector import Chunk, Sink, TableStatus
from tailrace_postgres.source import PostgresSource

FAULTS = {where!r}.split()


def fail(where):
    if where in FAULTS:
        raise RuntimeError(f"broken in {{where}}")


class BrokenSink(Sink):
    Config = PluginConfig

    async def open(self):
        fail("open")

    async def write(self, batch):
        fail("write")

    async def close(self):
        fail("close")


class BrokenSource(PostgresSource):
    async def stream(self, after):
        async for batch in super().stream(after):
            yield batch
            fail("stream")

    async def head(self):
        fail("head")
        return await super().head()

    async def chunk(self, table, after_key, limit, where):
        fail("chunk")
        return await super().chunk(table, after_key, limit, where)

    async def release(self, position):
        fail("release")
        await super().release(position)


@hookimpl
def tailrace_register(register):
    register.sink("broken-sink", connector=BrokenSink, config=PluginConfig)
    register.source("broken-source", connector=BrokenSource, config=PostgresSource.Config)
"""


@pytest.fixture
def broken(cdc: Make, database: str, tmp_path: Path) -> Callable[[str], Cdc]:
    """Makes a pipeline between a source and a sink that fail at the named points."""

    def make(where: str) -> Cdc:
        (tmp_path / "broken_plugin.py").write_text(PLUGIN.format(where=where))
        info = tmp_path / "broken-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
        points = "broken-sink = broken_plugin\nbroken-source = broken_plugin\n"
        (info / "entry_points.txt").write_text(f"[tailrace]\n{points}")
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        return cdc("sink=broken-sink", source="broken-source")

    return make


@pytest.mark.parametrize(
    "where", ["open", "write", "close", "stream", "head", "chunk", "release", "write close"]
)
def test_c16_an_exception_ends_the_process_visibly(
    broken: Callable[[str], Cdc], tmp_path: Path, where: str
) -> None:
    pipeline = broken(where).start("--once", PYTHONPATH=path_with(tmp_path))
    assert pipeline.wait() == 1, pipeline.said
    assert f"RuntimeError: broken in {where.split()[0]}" in pipeline.said


@pytest.mark.parametrize("where", ["write", "stream", "chunk", "release"])
def test_c16_so_does_one_in_a_pipeline_that_has_no_end(
    broken: Callable[[str], Cdc], tmp_path: Path, where: str
) -> None:
    pipeline = broken(where).start(PYTHONPATH=path_with(tmp_path))
    assert pipeline.wait() == 1, pipeline.said
    assert f"RuntimeError: broken in {where}" in pipeline.said


def path_with(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
