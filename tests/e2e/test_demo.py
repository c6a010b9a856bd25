"""The demo shows every kind of change, and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LIMIT = 100.0
WAIT = 30.0
CHANGE = re.compile(r"^ *(?P<late>-?\d+\.\d ms)?  (?P<op>[a-z]+) +(?P<table>[a-z_]+) +tx ")

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")


@contextmanager
def running_demo(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo in a process of its own, with `folder` for its temporary files."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tailrace_demo"],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def processes_of(folder: Path) -> list[int]:
    """The running processes that were started with `folder` for their temporary files."""
    mark, found = f"TMPDIR={folder}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def assert_nothing_left(folder: Path) -> None:
    deadline = time.monotonic() + WAIT
    while left := processes_of(folder):
        assert time.monotonic() < deadline, f"processes {left} are still there"
        time.sleep(0.05)
    assert not list(folder.iterdir())


@needs_proc
def test_the_demo_shows_every_op_and_a_summary(embedded: Path) -> None:
    with running_demo(embedded) as process:
        shown, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, errors) == (0, "")
    assert "\x1b" not in shown
    changes = [found for line in shown.splitlines() if (found := CHANGE.match(line))]
    assert {found["op"] for found in changes} == {"read", "insert", "update", "delete", "truncate"}
    assert all(found["late"] for found in changes if found["op"] != "read")
    assert "sku=mug -> mug-1" in shown
    assert "status=new -> paid" in shown
    assert re.search(r"^order_lines +3 +20,010 +5 *$", shown, re.MULTILINE)
    assert re.search(r"^latency +p50 \d+\.\d ms, p99 \d+\.\d ms", shown, re.MULTILINE)
    assert re.search(r"^burst +[\d,]+ events/s", shown, re.MULTILINE)
    assert re.search(r"^cdc run source=postgres sink=nats source\.dsn=", shown, re.MULTILINE)
    assert_nothing_left(embedded)


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", ["starting PostgreSQL", "Rows that were there", " insert "])
def test_interrupted_it_cleans_up(embedded: Path, after: str, number: signal.Signals) -> None:
    with running_demo(embedded) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if after in line:
                break
        process.send_signal(number)
        rest, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, errors) == (130, "")
    assert rest.endswith("stopped; everything is cleaned up\n")
    assert_nothing_left(embedded)
