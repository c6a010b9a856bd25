"""The checkup: parts that do not answer, and what the core's own sinks and stores find."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from findings import said, the, troubles
from tailrace import checkup
from tailrace.checkpoint import Checkpoint, CheckpointStore
from tailrace.checkup import examine
from tailrace.config import PluginConfig
from tailrace.connector import BackfillSource, Chunk, Connector, Finding, Setup, Source, TableStatus
from tailrace.errors import ConfigError, TransientError
from tailrace.event import Batch, Position
from tailrace.formats.json import JsonConfig, JsonFormat
from tailrace.pipeline import Pipeline
from tailrace.registry import Registry
from tailrace.resolve import Resolved, resolve
from tailrace.settings import collect
from tailrace.sinks.file import FileConfig, FileSink
from tailrace.sinks.stdout import StdoutConfig, StdoutSink
from tailrace.stores.file import FileStore
from tailrace.stores.memory import MemoryStore
from tailrace.stores.sqlite import SqliteStore

FORMAT = JsonFormat(JsonConfig(), name="orders", connector="test")
SAVED = Checkpoint("test:1", Position("7"))


def checked(part: Connector | CheckpointStore) -> list[Finding]:
    return asyncio.run(part.check())


# -- sinks


def file_sink(path: Path, *, fsync: bool = True) -> FileSink:
    return FileSink(FileConfig(path=path, fsync=fsync), Setup("orders"), FORMAT)


def test_a_file_that_is_to_be_made(tmp_path: Path) -> None:
    findings = checked(file_sink(tmp_path / "out"))
    assert troubles(findings) == []
    assert "made at the first start" in said("path", findings)
    assert "GiB free" in said("disk", findings)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    sink = file_sink(tmp_path / "it's" / "out")
    [missing] = checked(sink)
    assert missing.level == "error"
    subprocess.run(str(missing.mend), shell=True, check=True)
    assert troubles(checked(sink)) == []


def test_a_file_as_a_pipeline_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("whole\n")
    assert said("path", checked(file_sink(path))) == f"{path} can be written"
    assert path.read_text() == "whole\n"


def test_a_last_line_that_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("whole\ntorn")
    torn = the("warning", "path", checked(file_sink(path)))
    assert "cuts its last 4 bytes" in torn.text
    shown = subprocess.run(str(torn.mend), shell=True, check=True, capture_output=True)
    assert shown.stdout == b"torn"
    assert path.read_text() == "whole\ntorn"


def test_a_file_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "is being written" in the("warning", "path", checked(file_sink(path))).text
    assert troubles(checked(file_sink(path))) == []


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path(os.devnull)):
        refused = the("error", "path", checked(file_sink(path)))
        assert "is not a regular file" in refused.text


def test_what_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a system that says so: it lets root, who may run the tests, write everything."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    path = tmp_path / "out"
    assert str(tmp_path) in the("error", "path", checked(file_sink(path))).text
    path.touch()
    assert str(path) in the("error", "path", checked(file_sink(path))).text


def test_without_fsync(tmp_path: Path) -> None:
    assert the("warning", "fsync", checked(file_sink(tmp_path / "out", fsync=False)))


Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made up: a test fills no disk."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 100, 7))
    parts: list[Connector | CheckpointStore] = [
        file_sink(tmp_path / "out"),
        SqliteStore(str(tmp_path / "cdc.db")),
        FileStore(str(tmp_path)),
    ]
    for part in parts:
        assert "0.0 GiB free" in the("warning", "disk", checked(part)).text


def test_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = StdoutSink(StdoutConfig(), Setup("orders"), FORMAT)
    with monkeypatch.context() as patched, open(os.devnull, "w") as output:
        patched.setattr(sys, "stdout", output)
        assert troubles(checked(sink)) == []
        output.close()
        assert "is closed" in the("error", "open", checked(sink)).text


# -- stores


async def save(store: CheckpointStore) -> None:
    async with store:
        await store.claim("orders", SAVED)


@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_a_store_before_and_after_its_first_use(kind: str, tmp_path: Path) -> None:
    place = str(tmp_path / "cdc.db") if kind == "sqlite" else str(tmp_path)
    store = SqliteStore(place) if kind == "sqlite" else FileStore(place)
    assert troubles(checked(store)) == []
    assert asyncio.run(store.peek("orders")) is None
    assert list(tmp_path.iterdir()) == []
    asyncio.run(save(store))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert said("store", checked(store)) == "can be read and written"
    found = asyncio.run(store.peek("orders"))
    assert found is not None
    assert found.position == SAVED.position
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"no database", b"x" * 1000])
def test_an_sqlite_file_is_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cdc.db"
    path.write_bytes(content)
    findings = checked(SqliteStore(str(path)))
    assert bool(troubles(findings)) == bool(content)
    assert path.read_bytes() == content


def test_stores_that_cannot_be_used(tmp_path: Path) -> None:
    for store in (
        SqliteStore(str(tmp_path / "missing" / "cdc.db")),
        SqliteStore(str(tmp_path)),
        FileStore(str(tmp_path / "missing")),
    ):
        assert the("error", "store", checked(store)).mend
    [missing] = checked(FileStore(str(tmp_path / "missing")))
    subprocess.run(str(missing.mend), shell=True, check=True)
    assert troubles(checked(FileStore(str(tmp_path / "missing")))) == []


def test_a_store_that_forgets() -> None:
    assert the("warning", "store", checked(MemoryStore())).mend == "checkpoint=sqlite:PATH"


# -- the whole


class Stub(Source):
    """A source whose check is the contract's own. `refusal` is what `open` raises."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    refusal: Exception | None = None
    begun = 0

    def __init__(self) -> None:
        super().__init__(PluginConfig(), Setup("orders"))
        self.open_now = False

    @property
    def identity(self) -> str:
        assert self.open_now
        return "test:1"

    async def open(self) -> None:
        if self.refusal:
            raise self.refusal
        self.open_now = True

    async def close(self) -> None:
        self.open_now = False

    async def begin(self) -> None:
        self.begun += 1

    def stream(self, after: Position | None) -> AsyncGenerator[Batch, None]:
        raise AssertionError("a check reads no stream")

    async def release(self, position: Position) -> None:
        raise AssertionError("a check releases nothing")


class Slow(Stub, BackfillSource):
    """With too many tables to list."""

    async def tables(self) -> list[TableStatus]:
        await asyncio.Event().wait()
        raise AssertionError

    async def chunk(self, *_: object) -> Chunk:
        raise AssertionError("a check reads no rows")


class SilentStore(MemoryStore):
    async def check(self) -> list[Finding]:
        await asyncio.Event().wait()
        raise AssertionError


class Whole:
    """A pipeline's parts, and what the checkup of them finds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, source: Source) -> None:
        self.store: Any = MemoryStore()
        [settings] = collect(["source=postgres", "source.dsn=x", "sink=stdout", "name=orders"], {})
        self.resolved: Resolved = resolve(settings, Registry(), drivers=False)
        sink = StdoutSink(StdoutConfig(), Setup("orders"), FORMAT)
        monkeypatch.setattr(
            checkup,
            "build",
            lambda resolved: Pipeline(resolved.pipeline, source, sink, self.store),
        )

    def findings(self, part: str) -> list[Finding]:
        found = asyncio.run(examine(self.resolved))
        return [f for each in found.parts if each.part == part for f in each.findings]


def test_a_source_that_knows_no_more_than_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Stub()
    whole = Whole(monkeypatch, source)
    assert said("open", whole.findings("source")) == "can be opened"
    assert source.begun == 1
    asyncio.run(save(whole.store))
    assert said("position", whole.findings("checkpoint")) == "7 is saved"
    assert source.begun == 1
    assert not source.open_now


def test_every_problem_of_a_source_that_does_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Stub()
    source.refusal = ConfigError.of([ConfigError("one", mend="a"), ConfigError("two", mend="b")])
    whole = Whole(monkeypatch, source)
    assert [finding.text for finding in troubles(whole.findings("source"))] == ["one", "two"]
    saved = whole.findings("checkpoint")
    assert [finding.subject for finding in saved] == ["store", "saved"]


def test_a_source_that_fails_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flapping(Stub):
        async def check(self) -> list[Finding]:
            return [Finding("ok", "open", "was well just now")]

    source = Flapping()
    source.refusal = TransientError("gone", mend="wait")
    assert the("error", "start", Whole(monkeypatch, source).findings("checkpoint")).text == "gone"


def test_what_does_not_answer_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "PATIENCE", 0.01)
    whole = Whole(monkeypatch, Stub())
    whole.store = SilentStore()
    [silent] = troubles(whole.findings("checkpoint"))
    assert silent.text == "has not answered within 0 s"
    assert said("open", whole.findings("source"))


def test_a_backfill_that_takes_long_to_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "PLANNING", 0.01)
    findings = Whole(monkeypatch, Slow()).findings("checkpoint")
    assert "not known" in said("backfill", findings)
    assert said("position", findings)
