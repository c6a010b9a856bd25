"""Checkpoint stores: what is saved comes back, old writers are refused, damage is never new."""

from __future__ import annotations

import asyncio
import fcntl
import json
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from tailrace.checkpoint import (
    VERSION,
    BackfillRequest,
    Checkpoint,
    CheckpointStore,
    TableProgress,
)
from tailrace.errors import CheckpointError, ConfigError, FencedError, TransientError
from tailrace.event import Position
from tailrace.stores import file as file_store
from tailrace.stores import sqlite as sqlite_store
from tailrace.stores.file import FileStore
from tailrace.stores.memory import MemoryStore
from tailrace.stores.sqlite import SqliteStore

T = TypeVar("T")
Opener = Callable[[], CheckpointStore]

FIRST = Checkpoint(
    source="pg:7423",
    position=Position("0/1A2B3C8:4"),
    tables={"public.orders": TableProgress(Position("0/1"), 1_700_000_000_000_000, ("7", "é"), 9)},
)
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


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main)


def location(kind: str, folder: Path) -> Path:
    return folder / "cdc.db" if kind == "sqlite" else folder


def open_at(kind: str, folder: Path) -> CheckpointStore:
    path = str(location(kind, folder))
    return SqliteStore(path) if kind == "sqlite" else FileStore(path)


@pytest.fixture(params=["sqlite", "file"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["sqlite", "file", "memory"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Each call is a store as another process would open it."""
    if request.param == "memory":
        shared = MemoryStore()
        return lambda: shared
    return lambda: open_at(request.param, tmp_path)


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


async def load(store: CheckpointStore, name: str = "orders") -> Checkpoint | None:
    async with store:
        return await store.load(name)


async def claim_first(store: CheckpointStore, name: str = "orders") -> Checkpoint:
    async with store:
        return await store.claim(name, FIRST)


def moved(checkpoint: Checkpoint, position: str) -> Checkpoint:
    return replace(checkpoint, position=Position(position))


def test_what_is_saved_comes_back(opener: Opener) -> None:
    async def main() -> None:
        async with opener() as store:
            assert await store.load("orders") is None
            mine = await store.claim("orders", FIRST)
            assert mine == replace(FIRST, epoch=1)
            assert await store.load("orders") == mine
            await store.save("orders", moved(mine, "0/2"))
        assert await load(opener()) == moved(mine, "0/2")

    run(main())


def test_names_and_deletion(opener: Opener) -> None:
    async def main() -> None:
        async with opener() as store:
            for name in ("b", "a.b-c_D"):
                await store.claim(name, FIRST)
            assert await store.names() == ["a.b-c_D", "b"]
            await store.delete("b")
            await store.delete("never-there")
            assert await store.names() == ["a.b-c_D"]
            assert await store.load("b") is None

    run(main())


def test_c11_a_claim_on_an_epoch_that_has_passed_is_refused(opener: Opener) -> None:
    async def main() -> None:
        async with opener() as one, opener() as two:
            mine = await one.claim("orders", FIRST)
            with pytest.raises(FencedError, match=r"orders.*epoch 1 is stored, this one has 0"):
                await two.claim("orders", FIRST)
            assert await two.load("orders") == mine

    run(main())


def test_c12_the_older_writer_is_fenced_for_good(opener: Opener) -> None:
    async def main() -> None:
        async with opener() as one, opener() as two:
            old = await one.claim("orders", FIRST)
            new = await two.claim("orders", old)
            assert new.epoch > old.epoch
            with pytest.raises(FencedError):
                await one.save("orders", moved(old, "0/9"))
            await two.save("orders", moved(new, "0/3"))
            with pytest.raises(FencedError):
                await one.save("orders", moved(old, "0/9"))
            with pytest.raises(FencedError):
                await one.claim("orders", old)
            assert await one.load("orders") == moved(new, "0/3")

    run(main())


def test_c12_a_writer_from_before_a_deletion_stays_fenced(opener: Opener) -> None:
    async def main() -> None:
        async with opener() as one, opener() as two:
            old = await one.claim("orders", FIRST)
            await two.delete("orders")
            with pytest.raises(FencedError, match="deleted"):
                await one.save("orders", old)
            new = await two.claim("orders", FIRST)
            with pytest.raises(FencedError):
                await one.save("orders", moved(old, "0/9"))
            assert await one.load("orders") == new

    run(main())


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


def refused(kind: str, folder: Path) -> str:
    """The message with which the checkpoint is refused; twice the same, changing nothing (C19)."""
    path = folder / ("cdc.db" if kind == "sqlite" else "orders.json")
    before = path.read_bytes()
    messages = set()
    for _ in range(2):
        with pytest.raises(CheckpointError) as caught:
            run(load(open_at(kind, folder)))
        assert caught.value.mend
        messages.add(caught.value.message)
    assert path.read_bytes() == before
    (message,) = messages
    assert str(path if kind == "file" else f"sqlite:{path}") in message
    return message


def test_c13_a_newer_checkpoint_is_refused(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_at(kind, tmp_path) as store:
            await store.claim("orders", replace(FIRST, version=VERSION + 1))

    run(main())
    assert f"version {VERSION + 1}" in refused(kind, tmp_path)


def test_c13_a_newer_database_is_refused(tmp_path: Path) -> None:
    run(claim_first(open_at("sqlite", tmp_path)))
    db = sqlite3.connect(tmp_path / "cdc.db")
    db.execute("PRAGMA user_version = 2")
    db.close()
    assert "version 2" in refused("sqlite", tmp_path)


def test_c13_a_foreign_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "cdc.db")
    db.execute("CREATE TABLE customers (id INTEGER)")
    db.close()
    assert "none of Tailrace's" in refused("sqlite", tmp_path)


@pytest.mark.parametrize("content", [b"a", b"not a database " * 400, b"\0" * 8192])
def test_c13_a_file_that_is_no_database_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "cdc.db").write_bytes(content)
    refused("sqlite", tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"position":"0/1"}', b"[1]", b"\xff\xfe", b"x"])
def test_c13_a_foreign_checkpoint_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "orders.json").write_bytes(content)
    refused("file", tmp_path)


def test_c13_the_checkpoint_of_another_pipeline_is_refused(tmp_path: Path) -> None:
    run(claim_first(open_at("file", tmp_path), "billing"))
    (tmp_path / "billing.json").rename(tmp_path / "orders.json")
    assert "'billing'" in refused("file", tmp_path)


def test_c13_a_damaged_checkpoint_cannot_be_claimed_or_overwritten(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_at("file", tmp_path) as store:
            mine = await store.claim("orders", FIRST)
            (tmp_path / "orders.json").write_bytes(b"")
            for call in (store.claim("orders", FIRST), store.save("orders", mine)):
                with pytest.raises(CheckpointError, match="is empty"):
                    await call
            assert (tmp_path / "orders.json").read_bytes() == b""

    run(main())


def test_c04_every_torn_checkpoint_file_is_refused(tmp_path: Path) -> None:
    run(claim_first(open_at("file", tmp_path)))
    path = tmp_path / "orders.json"
    data = path.read_bytes()

    async def main() -> None:
        async with open_at("file", tmp_path) as store:
            for length in range(len(data)):
                path.write_bytes(data[:length])
                with pytest.raises(CheckpointError):
                    await store.load("orders")

    run(main())


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
def test_c13_every_altered_byte_of_a_checkpoint_file_is_noticed(mask: int, tmp_path: Path) -> None:
    run(claim_first(open_at("file", tmp_path)))
    path = tmp_path / "orders.json"
    data = path.read_bytes()

    async def main() -> None:
        async with open_at("file", tmp_path) as store:
            for at in range(len(data)):
                path.write_bytes(data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])
                with pytest.raises(CheckpointError):
                    await store.load("orders")

    run(main())


def database(folder: Path) -> bytes:
    async def main() -> None:
        async with open_at("sqlite", folder) as store:
            await store.claim("orders", FIRST)
            await store.ask("orders", BackfillRequest("1", "public.orders"))

    run(main())
    assert not (folder / "cdc.db-wal").exists()
    return (folder / "cdc.db").read_bytes()


async def load_or_refuse(store: CheckpointStore) -> Checkpoint | str | None:
    try:
        return await load(store)
    except CheckpointError:
        return "refused"


def test_c04_a_torn_database_is_refused(tmp_path: Path) -> None:
    data = database(tmp_path)
    for length in [1, 15, 16, 99, 100, 511, 512, 4095, *range(4096, len(data), 1024)]:
        (tmp_path / "cdc.db").write_bytes(data[:length])
        assert run(load_or_refuse(open_at("sqlite", tmp_path))) == "refused", length


def test_c13_an_altered_byte_of_a_database_is_no_fresh_start(tmp_path: Path) -> None:
    data = database(tmp_path)

    async def main() -> set[str]:
        outcomes = set()
        for at in (at for at, byte in enumerate(data) if byte):
            altered = data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :]
            (tmp_path / "cdc.db").write_bytes(altered)
            outcome = await load_or_refuse(open_at("sqlite", tmp_path))
            assert outcome in ("refused", replace(FIRST, epoch=1)), at
            outcomes.add(str(outcome))
        return outcomes

    assert "refused" in run(main())


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
