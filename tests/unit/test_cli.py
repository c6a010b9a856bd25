"""The command itself: exit statuses, messages, and what it never prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from tailrace.checkpoint import Checkpoint, TableProgress
from tailrace.cli.console import ConsoleFormat
from tailrace.cli.meter import Meter
from tailrace.cli.options import Options
from tailrace.cli.reporting import report
from tailrace.cli.tables import columns
from tailrace.errors import ConfigError, PermanentError, PositionLostError
from tailrace.event import Event, Position, Transaction
from tailrace.log import printable
from tailrace.row import Images
from tailrace.schema import Column, TableSchema
from tailrace.stats import Stats
from tailrace.stores.sqlite import SqliteStore

CANARY = "canary-7f3a"
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
from tailrace.cli import main
main()
"""
HEAVY = ("pydantic", "rich", "msgspec", "psycopg", "nats", "asyncio", "pluggy")


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    return tmp_path


def cdc(
    cwd: Path, *arguments: str, code: str | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    program = ["-c", code] if code else ["-m", "tailrace"]
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=cwd,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert CANARY not in done.stdout + done.stderr
    return done


def test_help_imports_nothing_heavy(cwd: Path) -> None:
    code = f"""
import sys
from tailrace.cli.app import execute
status = execute(["--help"])
print([name for name in {HEAVY!r} if name in sys.modules], status)
"""
    done = cdc(cwd, code=code)
    assert done.stdout.splitlines()[-1] == "[] 0"
    assert "Deliver changes until stopped." in done.stdout


@pytest.mark.parametrize(
    "verb",
    [
        "run",
        "tail",
        "check",
        "plugins",
        "describe",
        "demo",
        "checkpoint show",
        "config show",
    ],
)
def test_every_verb_explains_itself_with_an_example(cwd: Path, verb: str) -> None:
    done = cdc(cwd, *verb.split(), "--help")
    assert done.returncode == 0
    assert f"\n  cdc {verb.split()[0]}" in done.stdout or "&& cdc demo" in done.stdout


def test_every_mistake_is_told_at_once_with_status_2(cwd: Path) -> None:
    done = cdc(cwd, "run", "source=postgrse", "sink=stdot", "batch.evnts=1", "memory=big")
    assert done.returncode == 2
    assert done.stdout == ""
    for line in (
        "error: there is no source 'postgrse'\n  -> did you mean 'postgres'?",
        "error: there is no sink 'stdot'\n  -> did you mean 'stdout'?",
        "error: unknown key 'batch.evnts' (command line)\n  -> did you mean batch.events?",
        "error: memory = 'big': not a size",
    ):
        assert line in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("blocked", "mend"),
    [("psycopg", "pip install 'tailrace[postgres]'"), ("nats", "pip install 'tailrace[nats]'")],
)
def test_a_missing_driver_is_told_with_the_rest(cwd: Path, blocked: str, mend: str) -> None:
    code = BLOCKER.format(blocked={blocked})
    done = cdc(
        cwd, "run", "source=postgres", "sink=nats", f"source.dsn=postgresql://u:{CANARY}@h/d",
        "sink.url=nats://127.0.0.1:1", "x=1", code=code,
    )  # fmt: skip
    if "which is not installed" not in done.stderr and blocked == "nats":
        pytest.skip("the nats sink speaks the protocol itself")
    assert done.returncode == 2
    assert f"needs the module '{blocked}', which is not installed\n  -> {mend}\n" in done.stderr
    assert "unknown key 'x'" in done.stderr


def test_a_missing_driver_does_not_hide_the_keys(cwd: Path) -> None:
    code = BLOCKER.format(blocked={"psycopg", "nats"})
    described = cdc(cwd, "describe", "postgres", code=code)
    assert described.returncode == 0
    assert "source.dsn" in described.stdout
    listed = cdc(cwd, "plugins", code=code)
    assert listed.returncode == 0
    assert "pip install 'tailrace[postgres]'" in listed.stdout


@pytest.mark.parametrize("arguments", [["run", "--nonsense"], ["nonsense"], ["describe"]])
def test_wrong_usage_is_status_2(cwd: Path, arguments: list[str]) -> None:
    done = cdc(cwd, *arguments)
    assert done.returncode == 2
    assert "error: " in done.stderr


def test_a_password_given_in_the_wrong_place_is_not_repeated(cwd: Path) -> None:
    dsn = f"postgresql://u:{CANARY}@h/db"
    for arguments in (
        [f"source.dsn={dsn}"],
        ["run", dsn],
        ["run", "source=postgres", "sink=stdout", f"checkpoint={dsn}", f"source.dsn={dsn}"],
        ["run", "source=postgres", "sink=stdout", f"batch.events={dsn}", "-v"],
        ["run", "sink=stdout", f"source={dsn}"],
        ["run", f"--{dsn}"],
        [
            "config",
            "show",
            "source=postgres",
            "sink=stdout",
            f"source.dsn=host=h password={CANARY}",
        ],
    ):
        done = cdc(cwd, *arguments)
        assert done.returncode == (0 if arguments[0] == "config" else 2), done.stderr


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_password_from_elsewhere_is_not_printed(cwd: Path, log_format: str) -> None:
    (cwd / "secret").write_text(f"{CANARY}\n")
    dsn = "postgresql://u:${file:secret}@127.0.0.1:1/db"
    shown = cdc(cwd, "config", "show", "source=postgres", "sink=stdout", f"source.dsn={dsn}")
    assert "postgresql://u:***@127.0.0.1:1/db" in shown.stdout
    arguments = ["run", "-v", "source=postgres", "sink=stdout", "--log-format", log_format]
    done = cdc(cwd, *arguments, CDC__SOURCE__DSN=dsn)
    assert done.returncode == 2
    assert "127.0.0.1" in done.stderr
    if log_format == "json":
        assert [json.loads(line) for line in done.stderr.splitlines()]


def test_config_show_says_where_each_value_comes_from(cwd: Path) -> None:
    (cwd / "cdc.toml").write_text('[a]\nsource.type = "postgres"\nsink.type = "stdout"\n')
    environ = {"CDC__SOURCE__DSN": f"postgresql://u:{CANARY}@h/d"}
    done = cdc(cwd, "config", "show", "grace=1m", "--json", **environ)
    shown = json.loads(done.stdout)["a"]
    assert shown["source"] == {"value": "postgres", "origin": "cdc.toml [a]"}
    assert shown["grace"] == {"value": "1m", "origin": "command line"}
    assert shown["memory"] == {"value": "64MiB", "origin": "default"}
    assert shown["source.dsn"] == {
        "value": "postgresql://u:***@h/d",
        "origin": "environment CDC__SOURCE__DSN",
    }


def test_problems_of_several_pipelines_are_told_together(cwd: Path) -> None:
    (cwd / "cdc.toml").write_text(
        '[a]\nsource.type = "postgres"\n[b]\nsink.type = "file"\nname = "c"\n'
    )
    done = cdc(cwd, "run")
    assert done.returncode == 2
    assert "error: a: source.dsn is missing" in done.stderr
    assert "error: c: sink.path is missing" in done.stderr


def test_two_pipelines_of_one_name_are_refused(cwd: Path) -> None:
    table = 'source.type = "postgres"\nsource.dsn = "x"\nsink.type = "stdout"\nname = "same"\n'
    (cwd / "cdc.toml").write_text(f"[a]\n{table}[b]\n{table}")
    done = cdc(cwd, "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert "name = 'same': 2 pipelines have it" in done.stderr


def test_describe_and_plugins_as_json(cwd: Path) -> None:
    offer, store = json.loads(cdc(cwd, "describe", "postgres", "--json").stdout)
    assert store == {
        "kind": "store",
        "name": "postgres",
        "use": "checkpoint=postgres:…",
        "keys": [],
    }
    keys = {key["name"]: key for key in offer["keys"]}
    assert keys["source.dsn"]["secret"]
    assert keys["source.dsn"]["required"]
    assert keys["source.tables"]["type"] == "list"
    listed = {p["name"]: p["kinds"] for p in json.loads(cdc(cwd, "plugins", "--json").stdout)}
    assert listed["file"] == ["sink", "store"]
    unknown = cdc(cwd, "describe", "postgrse")
    assert unknown.returncode == 2
    assert "did you mean 'postgres'?" in unknown.stderr


def test_checkpoint_show(cwd: Path) -> None:
    missing = cdc(cwd, "checkpoint", "show")
    assert missing.returncode == 2
    assert "there is nothing at sqlite:cdc.db" in missing.stderr
    assert not (cwd / "cdc.db").exists()
    _save(cwd / "cdc.db", "orders")
    done = cdc(cwd, "checkpoint", "show", "name=orders")
    assert done.stdout.splitlines() == [
        "pipeline           orders",
        "position           0/AB",
        "source             pg:1",
        "epoch              1",
        "backfill public.a  7 rows up to key (7, x)",
    ]
    everything = json.loads(cdc(cwd, "checkpoint", "show", "--json").stdout)
    assert everything["orders"]["tables"]["public.a"]["rows"] == 7
    other = cdc(cwd, "checkpoint", "show", "name=other")
    assert other.returncode == 2
    assert "pipelines in it: orders" in other.stderr


def _save(path: Path, name: str) -> None:
    import asyncio

    async def save() -> None:
        progress = TableProgress(Position("0/1"), 0, after=("7", "x"), rows=7)
        async with SqliteStore(str(path)) as store:
            await store.claim(
                name, Checkpoint("pg:1", Position("0/AB"), tables={"public.a": progress})
            )

    asyncio.run(save())


def test_errors_become_text_and_an_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    several = ConfigError.of([ConfigError("one", mend="do"), ConfigError("t\x1b[2Jwo")])
    assert report(several, Options()) == 2
    assert capsys.readouterr().err == "error: one\n  -> do\nerror: t\\x1b[2Jwo\n"
    assert report(PositionLostError("gone"), Options(verbose=True)) == 3
    assert "PositionLostError: gone" in capsys.readouterr().err
    group = ExceptionGroup("both", [PermanentError("first"), several])
    assert report(group, Options(log_format="json")) == 1
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["message"] for line in lines] == ["first", "one", "t\\x1b[2Jwo"]


def test_what_is_unexpected_has_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(ZeroDivisionError("postgresql://u:canary@h"), Options()) == 1
    assert capsys.readouterr().err == "ZeroDivisionError: postgresql://u:***@h\n"


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b]0;x\x07\n\u202eb\x9b é") == "a\\x1b]0;x\\x07\\n\\u202eb\\x9b é"


TABLE = TableSchema(
    "shop",
    "public",
    "item",
    (Column("id", "int32", "int4"), Column("s", "string", "text")),
    ("id",),
)


@pytest.mark.parametrize(
    ("op", "change", "line"),
    [
        ("c", Images({"id": 1}, None, {"id": 1, "s": "a\x1b"}), 'id=1 s="a\\u001b"'),
        ("u", Images({"id": 1}, {"id": 1, "s": "a"}, {"id": 1, "s": "b"}), 'id=1 s="a" -> "b"'),
        ("u", Images({"id": 2}, {"id": 1}, {"id": 2}, ("s",)), "id=2 id=1 -> 2 s=(unchanged)"),
        ("d", Images({"id": 1}, {"id": 1}, None, ("s",)), "id=1"),
        ("t", Images(), ""),
    ],
)
def test_a_change_is_one_line(op: str, change: Images, line: str) -> None:
    event = Event("1", op, TABLE, change, Transaction(Position("1"), 0))  # type: ignore[arg-type]
    (message,) = ConsoleFormat(None, name="a", connector="b").encode([event])
    assert message.body.decode().partition("public.item")[2].strip() == line


def test_the_meter_reads_what_the_pipeline_says_now() -> None:
    stats = Stats()
    meter = Meter("orders", lambda: stats, window=10)
    meter.look()
    assert meter.read().text() == "orders: 0 events, 0/s"
    stats.events, stats.last_ts, stats.error = 2_000, 1, "connection lost"
    stats.tables = {"public.a": TableProgress(Position("1"), 0, rows=7)}
    stats.estimates = {"public.a": 1_000}
    meter.look()
    reading = meter.read()
    assert reading.backfill == "7 of ~1,000 rows"
    assert replace(reading, left=30.0).backfill == "7 of ~1,000 rows, about 30 s left"
    assert replace(reading, expected=0).backfill == "7 rows so far"
    assert reading.rate > 0
    assert reading.lag is not None
    assert "last error: connection lost" in reading.text()


def test_columns_line_up() -> None:
    assert columns(("a", "b"), [("xx", "1"), ("y", "")]) == "a   b\nxx  1\ny"
