"""Which tables are captured: those that match, but none in which Tailrace keeps checkpoints.

A captured save would be a change that calls for the next save, without end.
"""

from __future__ import annotations

from tailrace.patterns import Patterns

OWN = "tailrace_checkpoint"
"""How the names of Tailrace's own tables begin."""


class Captured(Patterns):
    """The patterns of ``source.tables``."""

    def matches(self, label: str) -> bool:
        name = label.rpartition(".")[2]
        return not name.startswith(OWN) and super().matches(label)
