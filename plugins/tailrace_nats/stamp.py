"""The stamp: what the last message of a batch says of its pipeline, to be read at the next start.

It holds the position from which to resume. Whoever sends it sees to it that everything before it
is stored when it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from tailrace.event import Position
from tailrace_nats.frames import header_value
from tailrace_nats.subjects import unescape

RESUME = "Tailrace-Resume"
PIPELINE = "Tailrace-Pipeline"
SOURCE = "Tailrace-Source"


class Stamper(Struct, frozen=True):
    """Stamps of one pipeline, whose positions are those of `source`."""

    pipeline: str
    source: str

    def headers(self, position: Position) -> dict[str, str]:
        """The stamp, not escaped yet."""
        return {RESUME: position, PIPELINE: self.pipeline, SOURCE: self.source}

    def read(self, headers: Mapping[str, str]) -> Position | None:
        """The position in a message's headers, if they hold a stamp of this pipeline."""
        ours = (header_value(self.pipeline), header_value(self.source))
        if (headers.get(PIPELINE), headers.get(SOURCE)) != ours:
            return None
        return Position(unescape(headers.get(RESUME, "")))
