"""Several pipelines: a second instance of one waits its turn, others do not disturb each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.command import Cdc, until
from e2e.history import History, in_file, in_stream
from jetstream import count
from tailrace_demo.servers import Nats

Make = Callable[..., Cdc]
ALL = ("journal_0", "journal_1", "accounts_0", "accounts_1")


def test_c11_a_second_instance_waits_and_takes_over(cdc: Make, database: str, nats: Nats) -> None:
    """The first is killed in its backfill; the second has been waiting since it began."""
    history = History(database, rows=20_000, pace=0.03)
    history.create()
    keys = ("sink=nats", f"sink.url={nats.url}", "snapshot.chunk=100", "batch.events=200")
    first, second = cdc(*keys), cdc(*keys)
    second.log = second.log.with_name("second.log")
    second.log.touch()
    with history.writing():
        first.start()
        until(lambda: asyncio.run(count(nats.url)) > 1_000, "the first events")
        second.start().until_said("slot 'orders' is in use by .* another instance")
        held = asyncio.run(count(nats.url))
        until(lambda: asyncio.run(count(nats.url)) > held + 2_000, "what the first goes on with")
        assert first.running
        first.kill()
        second.until_said("source: works again")
    assert "journal_1 done" not in first.log.read_text(), "its backfill was over before it died"
    second.until_caught_up(ALL)
    second.stop()
    history.truth().check(asyncio.run(in_stream(nats.url, "orders")))


def test_c11_a_second_instance_on_the_same_file_is_refused(
    cdc: Make, database: str, tmp_path: Path
) -> None:
    History(database, rows=100).create()
    keys = ("sink=file", f"sink.path={tmp_path / 'out.jsonl'}")
    first, second = cdc(*keys), cdc(*keys)
    first.start().until_caught_up(ALL)
    assert second.start().wait() == 2
    assert "another pipeline is writing to it" in second.said
    first.stop()


@pytest.mark.parametrize(
    "sinks",
    [
        ("nats", "nats"),
        pytest.param(("file", "file"), marks=pytest.mark.torture),
        pytest.param(("nats", "file"), marks=pytest.mark.torture),
    ],
)
def test_two_pipelines_side_by_side(
    cdc: Make, database: str, nats: Nats, tmp_path: Path, sinks: tuple[str, str]
) -> None:
    """One is killed over and over; the other does not notice."""
    history = History(database, pace=0.02)
    history.create()
    one, other = (
        cdc(*sink_keys(sink, name, tmp_path, nats), name=name)
        for sink, name in zip(sinks, ("one", "other"), strict=True)
    )
    with history.writing():
        other.start()
        for passing in (2, 8):
            one.start(failpoint=f"durable:{passing}:kill").until_died()
        one.start().until_said("starting at")
    for pipeline in (one, other):
        pipeline.until_caught_up(ALL)
        pipeline.stop()
    assert "trying again" not in other.log.read_text()
    truth = history.truth()
    for sink, pipeline in zip(sinks, (one, other), strict=True):
        out = tmp_path / f"{pipeline.name}.jsonl"
        seen = in_file(out) if sink == "file" else asyncio.run(in_stream(nats.url, pipeline.name))
        assert {event.source["name"] for event in seen} == {pipeline.name}
        truth.check(seen, repeats=0 if pipeline is other else None)


def sink_keys(sink: str, name: str, folder: Path, nats: Nats) -> tuple[str, ...]:
    common = (f"sink={sink}", "batch.events=200", "snapshot.chunk=200")
    if sink == "file":
        return (*common, f"sink.path={folder / name}.jsonl")
    return (*common, f"sink.url={nats.url}", f"sink.subject={name}.{{schema}}.{{table}}")
