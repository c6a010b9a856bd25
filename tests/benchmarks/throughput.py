"""Events a second: every contender over every case, from the same slot position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from benchmarks.contenders import Contender
from benchmarks.database import Database
from benchmarks.plan import Case
from benchmarks.results import Streamed

_numbers = count(1)
_EMPTY = "rows_none"


def measure(
    database: Database,
    case: Case,
    contenders: Sequence[Contender],
    runs: int,
    start: dict[str, float],
) -> list[Streamed]:
    """Load the case and let the contenders take turns; the first is what others are held against.

    That one comes before and after the others.
    """
    contenders = [contender for contender in contenders if contender.takes(case)]
    database.create(case.table)
    for contender in contenders:
        contender.prepare(case.table)
    database.fill(case)
    done = {c.name: Streamed(c.name, case, [], [], start.get(c.name, 0.0)) for c in contenders}
    try:
        for contender in _turns(contenders, runs):
            with database.slot(case.table, f"bench_{next(_numbers)}") as slot:
                done[contender.name].runs.append(contender.run(case.table, slot))
            done[contender.name].delivered.append(contender.delivered())
    finally:
        database.remove(case.table)
    reference = done[contenders[0].name].rate
    for streamed in done.values():
        streamed.reference = reference
    return list(done.values())


def _turns(contenders: Sequence[Contender], runs: int) -> Iterator[Contender]:
    """The first one, which the others are held against, takes one turn more."""
    for _ in range(runs):
        yield from contenders
    yield contenders[0]


def starts(database: Database, contenders: Sequence[Contender]) -> dict[str, float]:
    """Seconds that each takes, from start to end, with nothing to stream."""
    database.create(_EMPTY)
    seconds = {}
    try:
        for contender in contenders:
            taken = []
            for _ in range(2):
                with database.slot(_EMPTY, f"bench_{next(_numbers)}") as slot:
                    taken.append(contender.run(_EMPTY, slot).seconds)
            contender.delivered()
            seconds[contender.name] = min(taken)
    finally:
        database.remove(_EMPTY)
    return seconds
