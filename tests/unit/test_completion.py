"""Completion of the command line: in a real bash on a terminal, else by click's protocol."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE = 60.0
DRIVERS = ("psycopg", "nats")
BLOCKED = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {DRIVERS!r}:
            raise RuntimeError(name)

sys.meta_path.insert(0, Blocker())
from tailrace.cli import main
main()
"""
FILE = """
[orders]
source.type = "postgres"
sink.type = "nats"
[billing]
source.type = "postgres"
sink.type = "file"
"""


def completed(folder: Path, *words: str) -> list[str]:
    """What zsh is offered for the last of `words`. No driver may be imported for it."""
    environ = {
        **os.environ,
        "_CDC_COMPLETE": "zsh_complete",
        "COMP_WORDS": "\n".join(["cdc", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED],
        cwd=folder, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    lines = done.stdout.strip().splitlines()
    assert set(lines[::3]) <= {"plain", "file"}
    return [value.replace("\\:", ":") for value in lines[1::3]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run so", ["source="]),
        ("run source=", ["source=postgres"]),
        ("run sink=f", ["sink=file"]),
        ("run source=postgres source.d", ["source.dsn="]),
        ("run source.d", []),
        ("run format=w", ["format=wal-listener"]),
        ("run snapshot=", ["snapshot=initial", "snapshot=never", "snapshot=only"]),
        ("run snapshot.wh", ["snapshot.where."]),
        ("run sink=nats sink.mode=", ["sink.mode=jetstream", "sink.mode=core"]),
        ("tail source=postgres source.temporary=f", ["source.temporary=false"]),
        ("run checkpoint=s", ["checkpoint=sqlite:"]),
        ("run checkpoint=post", ["checkpoint=postgres:", "checkpoint=postgresql:"]),
        ("run grace=", []),
        ("run nonsense=", []),
        ("run source=nonsense source.d", []),
        ("run source=postgres source.slo", ["source.slot="]),
        ("run source=postgres sour source.ds", ["source.dsn="]),
        ("checkpoint set 0/1 checkpo", ["checkpoint="]),
        ("describe pos", ["postgres", "postgresql"]),
        ("checkpoint s", ["set", "show"]),
        ("run --pipeline ", []),
    ],
)
def test_what_may_follow(tmp_path: Path, line: str, expected: list[str]) -> None:
    assert completed(tmp_path, *line.split(" ")) == expected


def test_the_file_says_which_plugins_and_pipelines_there_are(tmp_path: Path) -> None:
    (tmp_path / "cdc.toml").write_text(FILE)
    (tmp_path / "other.toml").write_text(FILE.replace("billing", "stock"))
    assert completed(tmp_path, "run", "--pipeline", "") == ["orders", "billing"]
    assert completed(tmp_path, "run", "--config", "other.toml", "--pipeline", "s") == ["stock"]
    assert completed(tmp_path, "run", "--pipeline", "billing", "sink.p") == ["sink.path="]
    assert completed(tmp_path, "run", "--pipeline", "orders", "sink.p") == ["sink.password="]
    assert "source.dsn=" in completed(tmp_path, "run", "sourc")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_can_read(shell: str) -> None:
    command = [sys.executable, "-m", "tailrace", "completion", shell]
    script = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"_CDC_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


class Bash:
    """An interactive bash that has read the script."""

    def __init__(self, folder: Path) -> None:
        bin = Path(sys.executable).parent
        environ = {"PATH": f"{bin}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "", "HOME": "/"}
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe("bash", ["bash", "--noprofile", "--norc", "-i"], environ)
        self._said = ""
        self.type("bind 'set enable-bracketed-paste off'; PS1=; eval \"$(cdc completion bash)\"\n")

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def completes(self, text: str) -> str:
        """The line after the tabulator key."""
        self.type(f"{text}\t")
        self.type("\x01echo 'is now' [\x05]\n")
        return self._until("is now [").rstrip("]\r\n")

    def _until(self, mark: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while not (found := [line for line in self._said.splitlines() if line.startswith(mark)]):
            assert time.monotonic() < deadline, self._said
            if select.select([self._terminal], [], [], 0.1)[0]:
                self._said += os.read(self._terminal, 4096).decode()
        self._said = ""
        return found[0].removeprefix(mark)

    def close(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)


@pytest.fixture
def bash(tmp_path: Path) -> Iterator[Bash]:
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    (tmp_path / "cdc.toml").write_text(FILE)
    (tmp_path / "a-folder").mkdir()
    shell = Bash(tmp_path)
    yield shell
    shell.close()


def test_in_a_real_bash(bash: Bash) -> None:
    for typed, line in {
        "cdc desc": "cdc describe ",
        "cdc run sour": "cdc run source",  # the file names one, so there is source.dsn as well
        "cdc run source=po": "cdc run source=postgres ",
        "cdc run source=postgres source.ds": "cdc run source=postgres source.dsn=",
        "cdc run checkpoint=sq": "cdc run checkpoint=sqlite:",
        "cdc run form": "cdc run format=",
        "cdc run snapshot.whe": "cdc run snapshot.where.",
        "cdc run sink=file sink.path=a-f": "cdc run sink=file sink.path=a-folder/",
        "cdc run --pipeline bil": "cdc run --pipeline billing ",
        "cdc run --pipeline=bil": "cdc run --pipeline=billing ",
    }.items():
        assert bash.completes(typed) == line, typed
