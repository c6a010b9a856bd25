"""Row images that stay the log's own bytes until somebody asks for values or JSON."""

from __future__ import annotations

from typing import Any

from tailrace.row import Change, Row
from tailrace_postgres.decoder import Decoder, new_tuple
from tailrace_postgres.generated import NEW

_OLD_MARKER = 30
_FULL = ord("O")


class NewRow(Change, frozen=True, gc=False):
    """Insert, or update without an old tuple: the message holds the new row alone."""

    decoder: Decoder
    message: bytes

    @property
    def after(self) -> Row:
        return self.decoder.last_values(self.message, NEW)

    @property
    def key(self) -> Row | None:
        return self.decoder.pick_key(self.after)

    @property
    def before(self) -> None:
        return None

    @property
    def unavailable(self) -> tuple[str, ...]:
        return self.decoder.absent(self.after)

    def json(self) -> str:
        return self.decoder.json_of_new(self.message)


class OldNewRow(Change, frozen=True, gc=False):
    """Update with the old key (its key changed) or the whole old row (identity full)."""

    decoder: Decoder
    message: bytes

    def _rows(self) -> tuple[dict[str, Any], dict[str, Any]]:
        old, end = self.decoder.values(self.message, NEW)
        new = self.decoder.last_values(self.message, new_tuple(self.message, end))
        if self.message[_OLD_MARKER] != _FULL:
            old = self.decoder.identity_only(old)
        # What the new row leaves out is unchanged, so the old tuple's is it: any column of a
        # full one, and of a key tuple a key long enough to be TOASTed.
        filled = {**old, **new}
        return old, {
            column.name: filled[column.name]
            for column in self.decoder.table.columns
            if column.name in filled
        }

    @property
    def after(self) -> Row:
        return self._rows()[1]

    @property
    def before(self) -> Row:
        return self._rows()[0]

    @property
    def key(self) -> Row | None:
        return self.decoder.pick_key(self.after)

    @property
    def unavailable(self) -> tuple[str, ...]:
        return self.decoder.absent(self.after)

    def json(self) -> str:
        decoder = self.decoder
        old, end = decoder.texts(self.message, NEW)
        new = decoder.last_texts(self.message, new_tuple(self.message, end))
        if self.message[_OLD_MARKER] != _FULL:
            return decoder.new(decoder.with_key(new, old), decoder.key_object(old))
        filled = [o if n is None else n for o, n in zip(old, new, strict=True)]
        return decoder.new(filled, decoder.object(old))


class OldRow(Change, frozen=True, gc=False):
    """Delete: the old key, or the whole old row with identity full."""

    decoder: Decoder
    message: bytes

    @property
    def before(self) -> Row:
        old = self.decoder.last_values(self.message, NEW)
        return old if self.message[_OLD_MARKER] == _FULL else self.decoder.identity_only(old)

    @property
    def after(self) -> None:
        return None

    @property
    def key(self) -> Row | None:
        return self.decoder.pick_key(self.before)

    @property
    def unavailable(self) -> tuple[str, ...]:
        return self.decoder.absent(self.before)

    def json(self) -> str:
        decoder = self.decoder
        old = decoder.last_texts(self.message, NEW)
        if self.message[_OLD_MARKER] == _FULL:
            return decoder.old(old, decoder.object(old), "[]")
        return decoder.old(old, decoder.key_object(old), decoder.beyond_key)


class CopiedRow(Change, frozen=True, gc=False):
    """A row read by the backfill: one line of COPY's text format."""

    decoder: Decoder
    line: bytes

    @property
    def after(self) -> Row:
        return self.decoder.values_of_line(self.line)

    @property
    def key(self) -> Row | None:
        return self.decoder.key_of_line(self.line)

    @property
    def before(self) -> None:
        return None

    @property
    def unavailable(self) -> tuple[str, ...]:
        return ()

    def json(self) -> str:
        return self.decoder.json_of_line(self.line)

    def content(self) -> bytes:
        return self.line
