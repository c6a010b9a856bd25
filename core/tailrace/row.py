"""A change's row images: key, before, after, and what the log left out.

A `Change` is the one narrow interface between what a source reads and what a format writes. A
source may decode eagerly and hand out `Images`, or keep the log's own bytes and decode, or write
JSON, only when asked: formats and transforms cannot tell the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from tailrace.values import to_json

Row = Mapping[str, Any]
"""Column name to value. Values are those of `tailrace.values`; an absent column is not there."""


class Change(Struct, frozen=True, gc=False):
    """Key, before and after image of one row. Subclasses decide when to decode.

    The contract: the four properties, `json` and `content` always agree, and none of them fails
    for a change that the source has accepted.
    """

    @property
    def key(self) -> Row | None:
        """The key columns after the change (before it, for a delete); None without a key."""
        raise NotImplementedError

    @property
    def before(self) -> Row | None:
        """The old row, or the part of it that the log carries; None if it carries none."""
        raise NotImplementedError

    @property
    def after(self) -> Row | None:
        """The new row without the columns that the log left out; None for a delete."""
        raise NotImplementedError

    @property
    def unavailable(self) -> tuple[str, ...]:
        """Columns missing from `after` (from `before`, for a delete), in the table's order."""
        raise NotImplementedError

    def json(self) -> str:
        """The members ``"key":…,"before":…,"after":…,"unavailable":…`` of a JSON object.

        The text is UTF-8 carried as latin-1, one character per byte: ``.encode("latin-1")``
        gives the bytes. That spares decoding and encoding on the hot path.
        """
        raise NotImplementedError

    def content(self) -> bytes:
        """Bytes for the whole of it: the same whenever the same row is read, and for no other."""
        return self.json().encode("latin-1")


class Images(Change, frozen=True, gc=False):
    """A change whose rows are plain mappings."""

    key: Row | None = None
    before: Row | None = None
    after: Row | None = None
    unavailable: tuple[str, ...] = ()

    def json(self) -> str:
        return (
            f'"key":{to_json(self.key)},"before":{to_json(self.before)},'
            f'"after":{to_json(self.after)},"unavailable":{to_json(self.unavailable)}'
        )
