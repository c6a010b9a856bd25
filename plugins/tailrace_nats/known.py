"""What is stored already of that which comes again: left out by its id.

A stream drops repeats by itself only within its window. What a restart sends again is told from
what is new by the ids read back from the stream's end (see `newest`), however long ago it was.
"""

from __future__ import annotations

from tailrace_nats.outbox import Outbox


class Known:
    """The ids of stored messages.

    **Order.** What comes again comes in its old order, so what is stored of it is its beginning.
    A stored change behind one that is not has overtaken that (see `pubacks`), or the stream has
    dropped the older by its limits: it is stored once more, behind it, under an id of its own. A
    backfilled row may come at another place than before and is left out wherever it stands.
    """

    def __init__(self, ids: frozenset[str], left: int, *, behind: bool = False) -> None:
        """After `left` new messages nothing is known any more."""
        self._ids = ids
        self._left = left
        self._behind = behind

    def leave_out(self, outbox: Outbox) -> Known | None:
        """Take out of `outbox` what is stored. Returns what is known for the next batch."""
        stored: set[int] = set()
        behind = self._behind
        for i in range(outbox.done, len(outbox.messages)):
            row = outbox.messages[i].events[-1].op == "r"
            if outbox.ids[i] not in self._ids:
                behind = behind or not row
            elif row or not behind:
                stored.add(i)
            else:
                self._repeat(outbox, i)
        if stored:
            outbox.leave_out(stored)
        left = self._left - outbox.left
        return Known(self._ids, left, behind=behind) if left > 0 else None

    def _repeat(self, outbox: Outbox, index: int) -> None:
        while outbox.ids[index] in self._ids:
            outbox.repeat(index)
