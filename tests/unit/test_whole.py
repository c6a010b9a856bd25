"""Where the stream is cut into batches when transactions are to stay whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from tailrace.connector import Setup
from tailrace.event import Event, Position, Transaction
from tailrace.row import Images
from tailrace.schema import Column, TableSchema
from tailrace_postgres.lsn import Place, lsn_text
from tailrace_postgres.whole import Cut, Cutter

TABLE = TableSchema("shop", "public", "orders", (Column("id", "int64", "bigint"),), ("id",))


def taken(sizes: Sequence[int], takes: Sequence[int], cutter: Cutter) -> list[Cut]:
    """The cuts of transactions of `sizes` events, of 10 bytes each, that come `takes` at a time."""
    stream: list[tuple[Event | None, Place, Transaction | None]] = []
    for n, size in enumerate(sizes, 1):
        lsn = 1_000 * n
        transaction = Transaction(Position(lsn_text(lsn)), n)
        for ordinal in range(1, size + 1):
            event = Event(f"{n}:{ordinal}", "c", TABLE, Images(), transaction)
            stream.append((event, Place(lsn, ordinal), transaction))
        stream.append((None, Place(lsn + 500), None))
    cuts, at, turn = [], 0, 0
    while at < len(stream) or cutter.limit <= 0 or cutter.room <= 0:
        count = min(takes[turn % len(takes)], cutter.limit, -(-cutter.room // 10))
        turn += 1
        part = stream[at : at + max(count, 0)]
        at += len(part)
        events = [event for event, _, _ in part if event is not None]
        _, place, open_there = stream[at - 1]
        cut = cutter.cut(events, 10 * len(events), place, open_there)
        if cut is not None:
            cuts.append(cut)
    return cuts


def ids(cuts: Sequence[Cut]) -> list[str]:
    return [event.id for cut in cuts for event in cut.events]


SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=12)
TAKES = st.lists(st.integers(1, 12), min_size=1, max_size=6)


@given(SIZES, TAKES, st.integers(1, 20), st.integers(10, 200))
def test_no_batch_ends_inside_a_transaction_that_fits(
    sizes: list[int], takes: list[int], most_events: int, most_bytes: int
) -> None:
    cutter = Cutter(Setup("p", "postgres", most_events, most_bytes, whole=True))
    cuts = taken(sizes, takes, cutter)
    assert ids(cuts) == [f"{n}:{i}" for n, size in enumerate(sizes, 1) for i in range(1, size + 1)]
    assert sum(cut.size for cut in cuts) == 10 * sum(sizes)
    fit = min(most_events, most_bytes // 10)
    parts = [[n for n, _ in groupby(e.position for e in cut.events)] for cut in cuts]
    seen = [position for cut in parts for position in cut]
    for n, size in enumerate(sizes, 1):
        if size < fit:
            assert seen.count(Position(lsn_text(1_000 * n))) == 1
    assert max(len(cut.events) for cut in cuts) <= most_events


@given(SIZES, TAKES, st.integers(2, 20))
def test_a_position_says_what_has_been_given(
    sizes: list[int], takes: list[int], most_events: int
) -> None:
    """Resumed from any cut, the stream goes on with the next event."""
    cutter = Cutter(Setup("p", "postgres", most_events, whole=True))
    given_so_far: list[str] = []
    everything = [(n, i) for n, size in enumerate(sizes, 1) for i in range(1, size + 1)]
    last = Place(0)
    for cut in taken(sizes, takes, cutter):
        given_so_far += [event.id for event in cut.events]
        rest = [f"{n}:{i}" for n, i in everything if _comes(n, i, cut.place)]
        assert given_so_far + rest == [f"{n}:{i}" for n, i in everything]
        assert cut.place >= last
        last = cut.place


def _comes(n: int, ordinal: int, after: Place) -> bool:
    """What `Assembler` delivers of a stream that begins at `after`."""
    if 1_000 * n == after.lsn:
        return ordinal > after.done
    return 1_000 * n > after.lsn


def test_without_whole_everything_is_passed_on_as_it_comes() -> None:
    cutter = Cutter(Setup("p", "postgres", 10))
    cuts = taken([4, 30], [3], cutter)
    assert [len(cut.events) for cut in cuts if cut.events][:3] == [3, 2, 3]
