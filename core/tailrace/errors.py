"""Errors, grouped by what happens next.

Every error says what is wrong and, in ``mend``, the step that puts it right. Driver exceptions
are translated into one of these once, at the plugin's edge, with ``raise … from``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from tailrace.event import Event


class TailraceError(Exception):
    """Base of all errors that Tailrace raises on purpose.

    ``exit_status`` is the exit status of ``cdc`` when this error ends a pipeline.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, mend: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.mend}" if self.mend else self.message


class ConfigError(TailraceError):
    """Fix the configuration (or the server's) and start again. Carries every problem found."""

    exit_status = 2

    def __init__(
        self, message: str, *, mend: str | None = None, others: Sequence[ConfigError] = ()
    ) -> None:
        super().__init__(message, mend=mend)
        self.problems: tuple[ConfigError, ...] = (self, *others)

    @classmethod
    def of(cls, problems: Sequence[ConfigError]) -> ConfigError:
        """One error that carries all of `problems`; there must be at least one."""
        first, *others = problems
        return cls(first.message, mend=first.mend, others=others)


class TransientError(TailraceError):
    """Will pass: retried with back-off, from the same place."""


class PermanentError(TailraceError):
    """Will not pass by itself: the pipeline stops."""


class PositionLostError(PermanentError):
    """The saved position can no longer be honoured; going on would leave a gap in silence."""

    exit_status = 3


class CheckpointError(PermanentError):
    """The checkpoint cannot be read or written: torn, foreign or of a newer version."""


class FencedError(CheckpointError):
    """Another instance has taken the pipeline over; this one must not write any more."""


class RejectedError(TailraceError):
    """The sink will never take these events; ``on_error`` decides what becomes of them.

    Every event of the batch that is not named here is durable when this is raised.
    """

    exit_status = 4

    def __init__(self, rejected: Sequence[tuple[Event, str]], *, mend: str | None = None) -> None:
        event, reason = rejected[0]
        more = f" (and {len(rejected) - 1} more)" if len(rejected) > 1 else ""
        super().__init__(f"event {event.id} was rejected: {reason}{more}", mend=mend)
        self.rejected = tuple(rejected)
