"""``cdc check`` as a user runs it: on pipelines that are to start, that run, that never will."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from e2e.command import Cdc, until
from findings import said, the, troubles
from jetstream import count
from pipelines import confirmed, sql
from tailrace.connector import Finding
from tailrace.event import Position
from tailrace.stores.sqlite import SqliteStore
from tailrace_demo.servers import Nats

Make = Callable[..., Cdc]

CANARY = "canary-7f3a"
MADE = (
    "CREATE TABLE t (id int PRIMARY KEY, note text)",
    "INSERT INTO t VALUES (1, 'one')",
    "ALTER SYSTEM SET max_slot_wal_keep_size = '100GB'",
    "SELECT pg_reload_conf()",
)


@pytest.fixture
def shop(database: str) -> Iterator[str]:
    """A database with one table, on a server with nothing to find fault with."""
    sql(database, *MADE)
    yield database
    sql(database, "ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")


def run(
    folder: Path, verb: str, *arguments: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tailrace", verb, *arguments],
        cwd=folder,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert CANARY not in done.stdout + done.stderr
    return done


def check(pipeline: Cdc, *keys: str) -> list[Finding]:
    """What it finds; the exit status and the counts must agree with that."""
    done = run(pipeline.folder, "check", "--json", *pipeline.keys, *keys)
    report = json.loads(done.stdout)
    findings = [Finding(f["level"], f["subject"], f["text"], f["mend"]) for f in report["findings"]]
    levels = [finding.level for finding in findings]
    assert report["pipeline"] == pipeline.name
    assert (report["errors"], report["warnings"]) == (
        levels.count("error"),
        levels.count("warning"),
    )
    assert done.returncode == (2 if report["errors"] else 0), done.stderr
    return findings


def test_a_pipeline_before_its_start_while_it_runs_and_after(
    cdc: Make, shop: str, nats: Nats, tmp_path: Path
) -> None:
    pipeline = cdc("sink=nats", f"sink.url={nats.url}")
    files = set(tmp_path.iterdir())
    findings = check(pipeline)
    assert troubles(findings) == []
    assert said("saved", findings) == "nothing yet"
    assert "tables to be read: 1" in said("backfill", findings)
    assert set(tmp_path.iterdir()) == files, "a check leaves no file"
    assert asyncio.run(count(nats.url)) == -1, "nor a stream"
    made = "SELECT slot_name FROM pg_replication_slots UNION ALL SELECT pubname FROM pg_publication"
    assert sql(shop, made) == [], "nor anything upstream"

    pipeline.start()
    pipeline.until_caught_up(["t"])
    findings = check(pipeline)
    assert troubles(findings) == []
    assert "orders is read by the pipeline" in said("slot", findings)
    assert "orders takes cdc.>" in said("stream", findings)
    assert "moves on by itself" in said("position", findings)
    assert said("backfill", findings) == "nothing to be read"

    pipeline.stop()
    findings = check(pipeline)
    assert troubles(findings) == []
    assert "the slot has all that follows it" in said("position", findings)
    assert "epoch 1, backfill: 1 of 1 tables done" in said("saved", findings)


def saved_as(pipeline: Cdc, **changes: Any) -> None:
    """Replace parts of what the pipeline has saved."""

    async def save() -> None:
        async with SqliteStore(str(pipeline.folder / "cdc.db")) as store:
            saved = await store.load(pipeline.name)
            assert saved is not None
            await store.save(pipeline.name, replace(saved, **changes))

    asyncio.run(save())


def position_of(pipeline: Cdc) -> Position | None:
    async def load() -> Position | None:
        saved = await SqliteStore(str(pipeline.folder / "cdc.db")).peek(pipeline.name)
        return saved.position if saved else None

    return asyncio.run(load())


def drop_slot(pipeline: Cdc) -> str:
    sql(pipeline.dsn, "SELECT pg_drop_replication_slot('orders')")
    return "'orders' is gone"


def advance_slot(pipeline: Cdc) -> str:
    before = confirmed(pipeline.dsn, "orders")
    sql(pipeline.dsn, "INSERT INTO t VALUES (2, 'two')")
    move = "SELECT pg_replication_slot_advance('orders', pg_current_wal_insert_lsn())"
    until(lambda: sql(pipeline.dsn, move) and confirmed(pipeline.dsn, "orders") > before, "a move")
    return "ahead of the saved position"


def drop_publication(pipeline: Cdc) -> str:
    sql(pipeline.dsn, "DROP PUBLICATION orders")
    return "publication 'orders' is gone"


def lose_checkpoint(pipeline: Cdc) -> str:
    for file in pipeline.folder.glob("cdc.db*"):
        file.unlink()
    return "'orders' is there, but pipeline 'orders' has no checkpoint"


def move_database(pipeline: Cdc) -> str:
    saved_as(pipeline, source="pg:1")
    return "is for pg:1, but the database is pg:"


@pytest.mark.parametrize(
    "lose", [drop_slot, advance_slot, drop_publication, lose_checkpoint, move_database]
)
def test_a_position_that_is_lost(cdc: Make, shop: str, lose: Callable[[Cdc], str]) -> None:
    """As the start itself says it; under on_lost=resnapshot it is no error."""
    pipeline = cdc("sink=file", "sink.path=out.jsonl")
    pipeline.once()
    text = lose(pipeline)
    lost = the("error", "position", check(pipeline))
    assert text in lost.text
    lost = the("warning", "position", check(pipeline, "on_lost=resnapshot"))
    assert "begins anew, as on_lost=resnapshot says" in lost.text


def test_a_position_that_the_sink_has_kept(cdc: Make, shop: str, nats: Nats) -> None:
    """An old checkpoint is none where the sink knows better, for a check as for a start."""
    pipeline = cdc("sink=nats", f"sink.url={nats.url}")
    pipeline.once()
    old = position_of(pipeline)
    sql(shop, "INSERT INTO t VALUES (2, 'two')")
    pipeline.once()
    saved_as(pipeline, position=old)
    assert (
        "ahead of the saved position"
        in the("error", "position", check(pipeline, "sink.resume=false")).text
    )
    assert "the slot has all that follows it" in said("position", check(pipeline))
    pipeline.once()


def test_other_errors_do_not_hide_a_lost_position(cdc: Make, shop: str) -> None:
    pipeline = cdc("sink=file", "sink.path=out.jsonl")
    pipeline.once()
    drop_slot(pipeline)
    sql(shop, "ALTER TABLE t REPLICA IDENTITY NOTHING")
    findings = check(pipeline)
    assert the("error", "public.t", findings)
    assert the("error", "position", findings)


def test_a_first_start_that_was_broken_off(cdc: Make, shop: str) -> None:
    pipeline = cdc("sink=file", "sink.path=out.jsonl")
    pipeline.once()
    saved_as(pipeline, position=None)
    assert "broken off" in said("position", check(pipeline))


def test_settings_that_only_a_start_would_refuse(cdc: Make, shop: str) -> None:
    pipeline = cdc("sink=stdout", "snapshot.where.public.t=nonsense > 1", "snapshot.tables=a.b")
    [refused] = [f for f in check(pipeline) if f.level == "error"]
    assert "snapshot.tables: no captured table matches a.b" in refused.text


def test_for_a_person(cdc: Make, database: str) -> None:
    """Groups in the pipeline's order, what is worse first, and no colour in a pipe."""
    sql(database, "CREATE TABLE t (n int)")
    pipeline = cdc("sink=stdout", "checkpoint=memory:")
    done = run(pipeline.folder, "check", *pipeline.keys)
    assert done.returncode == 2
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == "orders"
    heads = [line for line in lines if re.match(r"  \w", line)]
    assert heads == ["  source postgres", "  sink stdout", "  checkpoint memory:"]
    source = "\n".join(lines[3 : lines.index(heads[1])])
    marks = "".join(re.findall("^    ([✗!✓]) ", source, re.MULTILINE))
    assert re.fullmatch("✗!✓+", marks)
    worst = lines.index(next(line for line in lines if "✗" in line))
    assert lines[worst + 1].strip() == '-> ALTER TABLE "public"."t" REPLICA IDENTITY FULL;'
    assert re.fullmatch(r"orders: 1 error, \d+ warnings, \d+ ok", lines[-2])


def test_on_a_terminal(cdc: Make, shop: str) -> None:
    pipeline = cdc("sink=stdout")
    command = [sys.executable, "-m", "tailrace", "check", *pipeline.keys]
    screen, terminal = pty.openpty()
    with subprocess.Popen(command, cwd=pipeline.folder, stdout=terminal) as process:
        os.close(terminal)
        shown = b""
        with open(screen, "rb", buffering=0) as output:
            try:
                while data := output.read(4096):
                    shown += data
            except OSError:  # the other end is closed
                pass
    assert process.returncode == 0
    assert "\x1b[32m\x1b[1m✓\x1b[0m".encode() in shown


def test_every_pipeline_of_the_file(cdc: Make, shop: str, tmp_path: Path) -> None:
    table = f'source.type = "postgres"\nsource.dsn = "{shop}"\nsink.type = "file"\n'
    (tmp_path / "cdc.toml").write_text(
        f'[a]\n{table}sink.path = "a.jsonl"\n[b]\n{table}sink.path = "missing/b.jsonl"\n'
    )
    done = run(tmp_path, "check", "--json")
    assert done.returncode == 2
    a, b = map(json.loads, done.stdout.splitlines())
    assert (a["pipeline"], a["errors"]) == ("a", 0)
    assert (b["pipeline"], b["errors"]) == ("b", 1)
    [missing] = [finding for finding in b["findings"] if finding["level"] == "error"]
    assert missing["part"] == "sink"
    assert missing["mend"] == f"mkdir -p {tmp_path}/missing"
    subprocess.run(missing["mend"], shell=True, check=True)
    assert run(tmp_path, "check", "--pipeline", "b").returncode == 0


def test_broken_settings_are_told_as_by_run(tmp_path: Path) -> None:
    keys = (
        "source=postgrse",
        "sink=stdot",
        "batch.evnts=1",
        f"source.dsn=postgresql://u:{CANARY}@h",
    )
    done, ran = (run(tmp_path, verb, *keys) for verb in ("check", "run"))
    assert done.returncode == 2
    assert (done.stdout, done.stderr) == ("", ran.stderr)
    assert "did you mean batch.events?" in done.stderr


@pytest.mark.parametrize("options", [(), ("--json", "-v", "--log-format", "json")])
def test_secrets_are_not_printed(database: str, nats: Nats, tmp_path: Path, options: Any) -> None:
    """Not by what the far ends say, either: psycopg and nats-py name whom they talked to."""
    by_it = database.replace("postgres@", f"postgres:{CANARY}@")
    url = nats.url.replace("//", f"//u:{CANARY}@")
    for dsn in (by_it.replace("postgres:", "nobody:"), f"host=127.0.0.1 password={CANARY}"):
        keys = [f"source.dsn={dsn}", f"sink.url={url}", "source=postgres", "sink=nats"]
        done = run(tmp_path, "check", *options, *keys, "checkpoint=memory:")
        assert done.returncode == 2
        assert done.stdout
