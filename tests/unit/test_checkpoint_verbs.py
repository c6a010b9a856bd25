"""``cdc checkpoint set`` and ``delete``: what they change, what they ask, what they refuse."""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from storecontract import FIRST, ORDERS, asked, claim_first, load, moved, run
from tailrace.checkpoint import Checkpoint
from tailrace.cli.app import execute
from tailrace.errors import FencedError
from tailrace.stores.file import FileStore
from tailrace.stores.sqlite import SqliteStore

pytestmark = pytest.mark.usefixtures("folder_with_a_checkpoint")

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(claim_first(SqliteStore("cdc.db")))


def saved(name: str = "orders") -> Checkpoint | None:
    return run(load(SqliteStore("cdc.db"), name))


def test_set_replaces_the_position_and_fences_who_is_running(capsys: Captured) -> None:
    async def main() -> None:
        async with SqliteStore("cdc.db") as running:
            before = await running.load("orders")
            assert before
            status = await asyncio.to_thread(execute, ["checkpoint", "set", "0/1", "name=orders"])
            assert status == 0
            with pytest.raises(FencedError):
                await running.save("orders", moved(before, "0/9"))

    run(main())
    after = saved()
    assert after
    assert (after.position, after.epoch, after.tables) == ("0/1", 2, FIRST.tables)
    said = capsys.readouterr().out
    assert said.startswith("orders: position 0/1 instead of 0/1A2B3C8:4, epoch 2; an instance")


SOURCE = ("name=orders", "source=postgres", "source.dsn=postgresql://db/shop", "sink=stdout")


def test_the_source_looks_at_the_position(capsys: Captured) -> None:
    assert execute(["checkpoint", "set", "elsewhere", *SOURCE]) == 1
    assert "'elsewhere' is not a PostgreSQL position" in capsys.readouterr().err
    assert saved() == replace(FIRST, epoch=1)
    assert execute(["checkpoint", "set", "0/2", *SOURCE]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["", "name=orders"], "the position is empty"),
        ([" ", "name=orders"], "the position is empty"),
        (["0/1", "name=others"], "this pipeline has saved nothing in sqlite:cdc.db"),
        (["0/1"], "this is done to one pipeline at a time"),
        (["0/1", "name=orders", "checkpoint=sqlite:no.db"], "there is nothing at sqlite:no.db"),
        (["0/1", "name=orders", "checkpoint=sqlte:cdc.db"], "there is no store 'sqlte'"),
    ],
)
def test_what_set_refuses(arguments: list[str], message: str, capsys: Captured) -> None:
    assert execute(["checkpoint", "set", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_delete_forgets_the_pipeline_and_its_requests(capsys: Captured) -> None:
    async def ask() -> None:
        async with SqliteStore("cdc.db") as store:
            await store.ask("orders", ORDERS)

    run(ask())
    assert execute(["checkpoint", "delete", "name=orders", "--yes"]) == 0
    assert "orders: the checkpoint in sqlite:cdc.db is deleted" in capsys.readouterr().out
    assert saved() is None
    assert run(asked(SqliteStore("cdc.db"))) == []
    assert execute(["checkpoint", "delete", "name=orders", "--yes"]) == 0


def test_delete_asks_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for answer, gone in (("n\n", False), ("", False), ("y\n", True)):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        assert execute(["checkpoint", "delete", "name=orders"]) == (0 if gone else 1)
        assert "Forget where orders is, in sqlite:cdc.db?" in capsys.readouterr().out
        assert (saved() is None) == gone


def test_delete_without_a_terminal_wants_to_be_told(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert execute(["checkpoint", "delete", "name=orders"]) == 2
    assert "say so with --yes" in capsys.readouterr().err
    assert saved() is not None


def test_delete_forgets_what_cannot_be_read(tmp_path: Path) -> None:
    run(claim_first(FileStore(str(tmp_path))))
    (tmp_path / "orders.json").write_bytes(b"torn")
    assert execute(["checkpoint", "delete", "name=orders", "checkpoint=file:.", "--yes"]) == 0
    assert run(load(FileStore(str(tmp_path)))) is None


def test_one_pipeline_of_a_file(capsys: Captured) -> None:
    table = 'source.type = "postgres"\nsource.dsn = "postgresql://db/shop"\nsink.type = "stdout"\n'
    Path("cdc.toml").write_text(f"[orders]\n{table}\n[billing]\n{table}")
    assert execute(["checkpoint", "set", "0/1"]) == 2
    assert "--pipeline NAME of the file" in capsys.readouterr().err
    assert execute(["checkpoint", "set", "0/1", "--pipeline", "orders"]) == 0
    after = saved()
    assert after
    assert after.position == "0/1"
