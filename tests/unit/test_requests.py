"""Requests for a backfill: they wait in the store beside the checkpoint until they are answered."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tailrace.checkpoint import BackfillRequest, Checkpoint, CheckpointStore
from tailrace.errors import CheckpointError, ConfigError
from tailrace.stores.file import FileStore
from tailrace.stores.memory import MemoryStore
from tailrace.stores.sqlite import SqliteStore

T = TypeVar("T")
Opener = Callable[[], CheckpointStore]

ORDERS = BackfillRequest("1", "public.orders", "total > 9.50 AND note = 'é'")
PEOPLE = BackfillRequest("2", "public.people")


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main)


@pytest.fixture(params=["sqlite", "file", "memory"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Each call is a store as another process would open it."""
    if request.param == "memory":
        shared = MemoryStore()
        return lambda: shared
    if request.param == "file":
        return lambda: FileStore(str(tmp_path))
    return lambda: SqliteStore(str(tmp_path / "cdc.db"))


async def asked(store: CheckpointStore, name: str = "orders") -> list[BackfillRequest]:
    async with store:
        return await store.asked(name)


def test_requests_wait_oldest_first_until_answered(opener: Opener) -> None:
    async def main() -> None:
        async with opener() as store:
            assert await store.asked("orders") == []
            for request in (PEOPLE, ORDERS):
                await store.ask("orders", request)
        assert await asked(opener()) == [PEOPLE, ORDERS]
        async with opener() as store:
            await store.answer("orders", PEOPLE.id)
            await store.answer("orders", "never-asked")
            await store.answer("never-there", "1")
        assert await asked(opener()) == [ORDERS]

    run(main())


def test_the_same_id_is_one_request(opener: Opener) -> None:
    async def main() -> None:
        async with opener() as one, opener() as two:
            await one.ask("orders", ORDERS)
            await two.ask("orders", ORDERS)
            await one.ask("billing", ORDERS)
            assert await one.asked("orders") == [ORDERS]
            await one.answer("orders", ORDERS.id)
            assert await two.asked("orders") == []
            assert await two.asked("billing") == [ORDERS]

    run(main())


def test_anybody_may_ask_beside_the_writer(opener: Opener) -> None:
    async def main() -> None:
        async with opener() as writer, opener() as other:
            mine = await writer.claim("orders", Checkpoint("pg:1", None))
            await other.ask("orders", ORDERS)
            await writer.save("orders", mine)
            assert await writer.asked("orders") == [ORDERS]
            assert await other.load("orders") == mine

    run(main())


def test_requests_are_no_pipeline_and_go_with_it(opener: Opener) -> None:
    async def main() -> None:
        async with opener() as store:
            for name in ("orders", "orders.requests"):
                await store.ask(name, ORDERS)
            assert await store.names() == []
            assert await store.load("orders") is None
            await store.delete("orders")
            assert await store.asked("orders") == []
            assert await store.asked("orders.requests") == [ORDERS]

    run(main())


def test_requests_asked_at_once_are_all_kept(tmp_path: Path) -> None:
    requests = [BackfillRequest(str(number), "public.orders") for number in range(20)]

    async def ask(request: BackfillRequest, store: CheckpointStore) -> None:
        async with store:
            await store.ask("orders", request)

    async def main(opener: Opener) -> None:
        await asyncio.gather(*(ask(request, opener()) for request in requests))
        assert {request.id for request in await asked(opener())} == set(map(str, range(20)))

    run(main(lambda: FileStore(str(tmp_path))))
    run(main(lambda: SqliteStore(str(tmp_path / "cdc.db"))))


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
