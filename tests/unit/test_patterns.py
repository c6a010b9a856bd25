"""Table patterns."""

from __future__ import annotations

import pytest

from tailrace.patterns import Patterns


@pytest.mark.parametrize(
    ("patterns", "label", "matches"),
    [
        (["*.*"], "public.orders", True),
        (["public.orders"], "public.orders", True),
        (["public.orders"], "public.Orders", False),
        (["public.orders"], "public.orders2", False),
        (["public.o*s"], "public.orders", True),
        (["public.*"], "private.t", False),
        (["*.orders"], "a.b.orders", True),
        (["public.a+b"], "public.aab", False),
        (["public.a+b"], "public.a+b", True),
        (["public.*"], "public.line\nbreak", True),
        (["public.*", "!public.log_*"], "public.log_1", False),
        (["public.*", "!public.log_*"], "public.t", True),
        (["!public.log_*"], "public.t", True),
        (["!public.log_*"], "public.log_", False),
        (["!public.t", "public.t"], "public.t", False),
    ],
)
def test_matches(patterns: list[str], label: str, matches: bool) -> None:
    assert Patterns(patterns).matches(label) is matches


@pytest.mark.parametrize(
    ("patterns", "everything"),
    [(["*.*"], True), (["*.*", "!a.b"], False), (["public.*"], False), (["a.b", "*.*"], True)],
)
def test_everything(patterns: list[str], everything: bool) -> None:
    assert Patterns(patterns).everything is everything


def test_unmatched_names_the_including_ones() -> None:
    patterns = Patterns(["public.a", "public.b*", "!public.c"])
    assert patterns.unmatched(["public.a", "other.b"]) == ["public.b*"]
    assert patterns.unmatched([]) == ["public.a", "public.b*"]


def test_a_pattern_without_a_dot_says_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"public\.orders"):
        Patterns(["orders"])
