"""Stores in files and in memory: the contract, and processes that die, stop or run at once."""

from __future__ import annotations

import fcntl
import json
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storecontract import FIRST, LastingContract, Opener, StoreContract, load, moved, run
from tailrace.checkpoint import CheckpointStore
from tailrace.errors import CheckpointError, ConfigError, TransientError
from tailrace.stores import file as file_store
from tailrace.stores import sqlite as sqlite_store
from tailrace.stores.file import FileStore
from tailrace.stores.memory import MemoryStore
from tailrace.stores.sqlite import SqliteStore

PREAMBLE = """
import asyncio, json, os, resource, sys
from msgspec.structs import replace
from tailrace.checkpoint import Checkpoint
from tailrace.errors import FencedError, TransientError
from tailrace.stores.file import FileStore
from tailrace.stores.sqlite import SqliteStore
store = {"sqlite": SqliteStore, "file": FileStore}[sys.argv[1]](sys.argv[2])
def say(*words): print(*words, flush=True)
"""


class TestSqlite(LastingContract):
    @pytest.fixture
    def opener(self, tmp_path: Path) -> Opener:
        return lambda: SqliteStore(str(tmp_path / "cdc.db"))


class TestFile(LastingContract):
    @pytest.fixture
    def opener(self, tmp_path: Path) -> Opener:
        return lambda: FileStore(str(tmp_path))


class TestMemory(StoreContract):
    @pytest.fixture
    def opener(self) -> Opener:
        shared = MemoryStore()
        return lambda: shared


def location(kind: str, folder: Path) -> Path:
    return folder / "cdc.db" if kind == "sqlite" else folder


def open_at(kind: str, folder: Path) -> CheckpointStore:
    path = str(location(kind, folder))
    return SqliteStore(path) if kind == "sqlite" else FileStore(path)


@pytest.fixture(params=["sqlite", "file"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def process(script: str, kind: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script, kind, str(location(kind, folder))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def tell(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


CLAIM_RACE = """
async def main():
    won = []
    say("ready")
    sys.stdin.readline()
    async with store:
        for round in range(40):
            try:
                await store.claim(f"p{round}", Checkpoint("pg:1", None))
                won.append(round)
            except FencedError:
                pass
    say(json.dumps(won))
asyncio.run(main())
"""


def test_c11_of_two_processes_exactly_one_claims(kind: str, tmp_path: Path) -> None:
    with process(CLAIM_RACE, kind, tmp_path) as one, process(CLAIM_RACE, kind, tmp_path) as two:
        assert [line(one), line(two)] == ["ready", "ready"]
        tell(one)
        tell(two)
        assert sorted(json.loads(line(one)) + json.loads(line(two))) == list(range(40))


PAUSED = """
async def main():
    async with store:
        mine = await store.claim("orders", Checkpoint("pg:1", "old"))
        say("claimed")
        sys.stdin.readline()
        try:
            await store.save("orders", mine)
            say("saved")
        except FencedError:
            say("fenced")
asyncio.run(main())
"""


def test_c12_a_paused_process_is_fenced_when_it_resumes(kind: str, tmp_path: Path) -> None:
    async def take_over() -> None:
        async with open_at(kind, tmp_path) as store:
            old = await store.load("orders")
            assert old is not None
            await store.save("orders", moved(await store.claim("orders", old), "new"))

    with process(PAUSED, kind, tmp_path) as child:
        assert line(child) == "claimed"
        child.send_signal(signal.SIGSTOP)
        run(take_over())
        child.send_signal(signal.SIGCONT)
        tell(child)
        assert line(child) == "fenced"
    kept = run(load(open_at(kind, tmp_path)))
    assert kept is not None
    assert kept.position == "new"


SAVES = """
async def main():
    async with store:
        mine = await store.claim("orders", Checkpoint("pg:1", "0"))
        for number in range(1, 1_000_000):
            await store.save("orders", replace(mine, position=str(number)))
            say(number)
asyncio.run(main())
"""


@pytest.mark.parametrize("seed", range(4))
def test_c04_kill_during_saves_leaves_the_old_or_the_new(
    kind: str, seed: int, tmp_path: Path
) -> None:
    count = random.Random(seed).randrange(20, 200)
    with process(SAVES, kind, tmp_path) as child:
        for _ in range(count):
            line(child)
        child.kill()
        assert child.stdout is not None
        told = child.stdout.read().split("\n")
    last = max([count, *map(int, told[:-1])])
    kept = run(load(open_at(kind, tmp_path)))
    assert kept is not None
    assert kept.position in (str(last), str(last + 1))


DISK_FULL = """
async def main():
    async with store:
        mine = await store.claim("orders", Checkpoint("pg:1", "old"))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
        for attempt in range(3):
            try:
                await store.save("orders", replace(mine, position="x" * 9000))
                say("saved")
            except TransientError as error:
                say(error.message)
        say((await store.load("orders")).position)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await store.save("orders", replace(mine, position="new"))
        say((await store.load("orders")).position)
asyncio.run(main())
"""


def test_c14_a_full_disk_passes_and_the_old_checkpoint_stays(kind: str, tmp_path: Path) -> None:
    with process(DISK_FULL, kind, tmp_path) as child:
        for _ in range(3):
            assert str(tmp_path) in line(child)
        assert [line(child), line(child)] == ["old", "new"]
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.suffix == ".tmp") == []


def test_c14_a_locked_sqlite_database_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "BUSY_SECONDS", 0.05)

    async def main() -> None:
        async with open_at("sqlite", tmp_path) as store:
            mine = await store.claim("orders", FIRST)
            other = sqlite3.connect(tmp_path / "cdc.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(TransientError, match=r"cdc\.db.*locked"):
                await store.save("orders", mine)
            other.close()
            await store.save("orders", mine)

    run(main())


def test_c14_a_locked_checkpoint_file_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_store, "LOCK_SECONDS", 0.05)

    async def main() -> None:
        async with open_at("file", tmp_path) as store:
            mine = await store.claim("orders", FIRST)
            with open(tmp_path / "orders.lock") as other:
                fcntl.flock(other, fcntl.LOCK_EX)
                with pytest.raises(TransientError, match=r"locked: .*orders\.lock"):
                    await store.save("orders", mine)
            await store.save("orders", mine)

    run(main())


def test_an_empty_database_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "cdc.db").touch()
    assert run(load(open_at("sqlite", tmp_path))) is None


def test_a_database_removed_while_in_use_is_noticed(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_at("sqlite", tmp_path) as store:
            mine = await store.claim("orders", FIRST)
            (tmp_path / "cdc.db").unlink()
            with pytest.raises(CheckpointError, match="removed or replaced"):
                await store.save("orders", mine)

    run(main())


def test_checkpoints_are_readable_by_their_owner_alone(kind: str, tmp_path: Path) -> None:
    async def main() -> list[int]:
        async with open_at(kind, tmp_path) as store:
            await store.claim("orders", FIRST)
            return [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()]

    modes = run(main())
    assert len(modes) >= 2
    assert set(modes) == {0o600}


def test_a_place_that_cannot_be_used_is_a_configuration_error(kind: str, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    wrong = {"sqlite": [tmp_path, "", "no/such"], "file": [tmp_path / "taken", "", "no/such"]}
    make = SqliteStore if kind == "sqlite" else FileStore
    for path in wrong[kind]:
        with pytest.raises(ConfigError, match=f"^checkpoint: {kind}:{path} cannot be used"):
            run(load(make(str(path))))


@pytest.mark.parametrize("name", ["../orders", "a/b", "", "a\0b", "x" * 101, "a\n"])
def test_s07_names_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with FileStore(str(tmp_path)) as store:
            for call in (store.load(name), store.claim(name, FIRST), store.delete(name)):
                with pytest.raises(ConfigError, match=r"^name: "):
                    await call

    run(main())
    assert list(tmp_path.iterdir()) == []
