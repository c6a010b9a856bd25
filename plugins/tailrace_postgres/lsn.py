"""Log sequence numbers, and the positions made of them.

A position is ``LSN`` or ``LSN:n``: every transaction whose commit record lies before LSN is
delivered, and of the one that commits at LSN the first n events. It is compared as a pair of
integers; only commit LSNs are ordered (an LSN inside a transaction says nothing). ``@t`` at its
end names the timeline on which it was read, where that is known; it has no part in the order.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tailrace.errors import CheckpointError
from tailrace.event import Position

_POSITION = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})(?::([0-9]+))?(?:@([0-9]+))?")
_PAGE = 8192
_PAGE_HEADERS = (24, 40)


def lsn_text(lsn: int) -> str:
    """64-bit LSN as PostgreSQL prints it: ``16/B374D848``."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


class Place(NamedTuple):
    """A position, taken apart; compares in log order."""

    lsn: int
    done: int = 0

    def position(self, timeline: int | None = None) -> Position:
        text = lsn_text(self.lsn)
        if self.done:
            text = f"{text}:{self.done}"
        return Position(f"{text}@{timeline}" if timeline else text)

    @classmethod
    def parse(cls, position: Position) -> Place:
        """Raises CheckpointError for text that is no position of this source."""
        match = _POSITION.fullmatch(position)
        if not match:
            raise CheckpointError(
                f"{position!r} is not a PostgreSQL position",
                mend="a position reads 16/B374D848 or 16/B374D848:3; restore the checkpoint",
            )
        high, low, done, _ = match.groups()
        return cls(int(high, 16) << 32 | int(low, 16), int(done or 0))


def timeline_of(position: Position) -> int | None:
    _, _, timeline = position.partition("@")
    return int(timeline) if timeline else None


def record_end(insert_lsn: int) -> int:
    """Where the last record ended, given the server's insert position.

    At a page boundary ``pg_current_wal_insert_lsn()`` already counts the next page's header,
    which the stream does not reach before another record is written (xlog.c,
    XLogBytePosToRecPtr against XLogBytePosToEndRecPtr).
    """
    offset = insert_lsn % _PAGE
    return insert_lsn - offset if offset in _PAGE_HEADERS else insert_lsn
