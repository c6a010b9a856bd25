"""Log sequence numbers and the positions made of them (P34)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import CheckpointError
from tailrace.event import Position
from tailrace_postgres.lsn import Place, lsn_text, parse_lsn, record_end

LSNS = st.integers(0, 2**64 - 1)
PLACES = st.builds(Place, LSNS, st.integers(0, 2**40))


@given(LSNS)
def test_an_lsn_is_printed_and_read_back(lsn: int) -> None:
    assert parse_lsn(lsn_text(lsn)) == lsn


@given(PLACES)
def test_a_place_is_printed_and_read_back(place: Place) -> None:
    assert Place.parse(place.position()) == place


@given(PLACES, PLACES)
def test_places_compare_as_numbers(one: Place, other: Place) -> None:
    assert (one < other) == ((one.lsn, one.done) < (other.lsn, other.done))


def test_texts() -> None:
    assert lsn_text(0x16_B374D848) == "16/B374D848"
    assert Place(0x16_B374D848, 3).position() == "16/B374D848:3"
    assert Place(0x9_FFFFFFFF) < Place(0x10_00000000)  # as texts it is the other way around


@pytest.mark.parametrize("text", ["", "1", "0/0/0", "g/1", "0/1:", "0/1:-1", " 0/1", "0/123456789"])
def test_what_is_no_position(text: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        Place.parse(Position(text))
    assert caught.value.mend


@pytest.mark.parametrize(
    ("insert", "end"),
    [(8192, 8192), (8192 + 24, 8192), (8192 + 40, 8192), (8192 + 32, 8192 + 32), (100, 100)],
)
def test_a_page_header_is_not_reached(insert: int, end: int) -> None:
    assert record_end(insert) == end
