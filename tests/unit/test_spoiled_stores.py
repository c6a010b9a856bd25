"""C04, C13: a store that was torn, altered or is something else is refused, never taken for new."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from msgspec.structs import replace

from storecontract import FIRST, ORDERS, PEOPLE, asked, claim_first, load, run
from tailrace.checkpoint import Checkpoint, CheckpointStore
from tailrace.errors import CheckpointError, ConfigError
from tailrace.stores.file import FileStore
from tailrace.stores.sqlite import SCHEMA_VERSION, SqliteStore


def open_at(kind: str, folder: Path) -> CheckpointStore:
    return FileStore(str(folder)) if kind == "file" else SqliteStore(str(folder / "cdc.db"))


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


def test_c13_a_newer_database_is_refused(tmp_path: Path) -> None:
    run(claim_first(open_at("sqlite", tmp_path)))
    db = sqlite3.connect(tmp_path / "cdc.db")
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    assert f"version {SCHEMA_VERSION + 1}" in refused("sqlite", tmp_path)


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
            await store.ask("orders", ORDERS)

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


def without_requests(path: Path) -> None:
    """A database as it was before there were requests."""

    async def main() -> None:
        async with SqliteStore(str(path)) as store:
            await store.claim("orders", Checkpoint("pg:1", None))

    run(main())
    db = sqlite3.connect(path)
    db.execute("DROP TABLE request")
    db.close()


def test_an_older_database_gets_the_table_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "cdc.db"
    without_requests(path)

    async def main() -> None:
        async with SqliteStore(str(path)) as store:
            assert await store.load("orders") == Checkpoint("pg:1", None, epoch=1)
            await store.ask("orders", ORDERS)
            assert await store.asked("orders") == [ORDERS]

    run(main())


def test_an_older_database_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    path = tmp_path / "cdc.db"
    without_requests(path)

    async def main() -> None:
        found = await asyncio.gather(*(asked(SqliteStore(str(path))) for _ in range(8)))
        assert found == [[]] * 8

    run(main())


def test_c04_every_torn_requests_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "orders.requests"

    async def main() -> None:
        async with FileStore(str(tmp_path)) as store:
            await store.ask("orders", ORDERS)
            data = path.read_bytes()
            for length in range(len(data) - 1):  # the last byte is the line's end
                path.write_bytes(data[:length])
                with pytest.raises(CheckpointError, match=r"orders\.requests"):
                    await store.asked("orders")
                with pytest.raises(CheckpointError):
                    await store.ask("orders", PEOPLE)
            assert path.read_bytes() == data[: len(data) - 2]

    run(main())


def test_c13_an_altered_request_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cdc.db"

    async def main() -> None:
        async with SqliteStore(str(path)) as store:
            await store.ask("orders", ORDERS)
            db = sqlite3.connect(path)
            db.execute("UPDATE request SET payload = replace(payload, '9.50', '8.50')")
            db.commit()
            db.close()
            with pytest.raises(CheckpointError, match=r"requests.*cdc\.db.*checksum"):
                await store.asked("orders")

    run(main())


@pytest.mark.parametrize("name", ["../orders", "a/b", ""])
def test_s07_requests_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with FileStore(str(tmp_path)) as store:
            for call in (store.ask(name, ORDERS), store.asked(name), store.answer(name, "1")):
                with pytest.raises(ConfigError, match=r"^name: "):
                    await call

    run(main())
    assert list(tmp_path.iterdir()) == []
