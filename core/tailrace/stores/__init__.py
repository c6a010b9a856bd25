"""Checkpoint stores: where a pipeline's position is kept. Here stands what all of them share."""

from __future__ import annotations

from tailrace.errors import FencedError


def fence(name: str, stored: int, mine: int) -> None:
    """Raises FencedError unless epoch `mine` is the `stored` one (0 where nothing is stored)."""
    if stored == mine:
        return
    found = f"epoch {stored} is stored" if stored else "its checkpoint was deleted"
    raise FencedError(
        f"another instance has taken over pipeline {name!r}: {found}, this one has {mine}",
        mend="Let only one instance run under a name; start this one again once the other is gone.",
    )
