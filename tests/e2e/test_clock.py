"""C15: the clock steps; positions, ids, order and waits do not care."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import psycopg

from e2e.command import Cdc, until
from e2e.history import History, Seen, in_file

Make = Callable[..., Cdc]

HOUR, DAY = 3_600.0, 86_400.0

SITECUSTOMIZE = """
import time

def offset():
    with open({path!r}) as file:
        return float(file.read() or 0)

real, real_ns = time.time, time.time_ns
time.time = lambda: real() + offset()
time.time_ns = lambda: real_ns() + int(offset() * 1e9)
"""
"""The clock of this machine cannot be set; it is the command's that is wrong."""


class Clock:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "clock"
        self.folder.mkdir()
        self._offset = self.folder / "offset"
        self.step(0)
        text = SITECUSTOMIZE.format(path=str(self._offset))
        (self.folder / "sitecustomize.py").write_text(text)

    def step(self, seconds: float) -> None:
        new = self.folder / "new"
        new.write_text(str(seconds))
        new.replace(self._offset)


def without_name(seen: list[Seen]) -> list[dict[str, object]]:
    """What of the events does not tell the pipelines apart."""
    events = [msgspec.json.decode(event.body) for event in seen]
    for event in events:
        del event["source"]["name"]
    return events


def test_c15_a_clock_that_steps_changes_nothing_that_is_delivered(
    cdc: Make, database: str, tmp_path: Path
) -> None:
    history, clock = History(database, rows=10, pace=0.01), Clock(tmp_path)
    history.create()
    out = {name: tmp_path / f"{name}.jsonl" for name in ("right", "wrong")}
    right, wrong = (
        cdc("sink=file", f"sink.path={path}", "snapshot=never", name=name)
        for name, path in out.items()
    )
    for pipeline in (right, wrong):
        pipeline.once()  # both begin at the same moment
    right.start()
    with history.writing():
        for steps in ((0, -HOUR, DAY), (-HOUR, 0), (DAY, -HOUR)):
            clock.step(steps[0])
            wrong.start(PYTHONPATH=str(clock.folder)).until_said("starting at")
            for step in steps[1:]:
                until_grown(out["wrong"])
                clock.step(step)
                cut_off(database, "wrong")
                until_grown(out["wrong"])
            wrong.stop()
    wrong.once()
    right.until_caught_up()
    right.stop()
    log = wrong.log.read_text()
    assert "Traceback" not in log
    days = {line[:10] for line in log.splitlines()}
    assert len(days) > 1, "the command had the right clock"
    assert without_name(in_file(out["wrong"])) == without_name(in_file(out["right"]))


def until_grown(path: Path) -> None:
    size = path.stat().st_size
    until(lambda: path.stat().st_size > size, f"{path} to grow")


def cut_off(database: str, slot: str) -> None:
    """The connection breaks, so that it must wait and come again."""
    with psycopg.connect(database, autocommit=True) as connection:
        query = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
        connection.execute(f"{query} WHERE slot_name = %s AND active", [slot])
