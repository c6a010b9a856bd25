"""Plain text in columns, readable on a terminal and in a pipe."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

_GAP = 2
_LAST = 30


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """`rows` below `head`; on a terminal the last column wraps, in a pipe it never does."""
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(len(line[i]) for line in lines) + _GAP for i in range(len(head) - 1)]
    room = max(_LAST, width() - sum(widths))
    return "\n".join(_line(line, widths, room) for line in lines)


def width() -> int:
    """Columns of the terminal; as good as no limit in a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 1_000_000


def _line(line: Sequence[str], widths: Sequence[int], room: int) -> str:
    first, *others = textwrap.wrap(line[-1], room) or [""]
    start = "".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False))
    indent = " " * sum(widths)
    return "\n".join([(start + first).rstrip(), *(indent + other for other in others)])
