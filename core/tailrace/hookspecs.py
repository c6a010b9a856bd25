"""The hooks of the plugin group ``tailrace``. Called at discovery and at life-cycle events only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pluggy

if TYPE_CHECKING:
    from tailrace.registry import Register


class Hooks(Protocol):
    """The life-cycle hooks, as pluggy's relay offers them."""

    def pipeline_started(self, *, name: str, source: str, sink: str) -> object: ...
    def pipeline_stopped(self, *, name: str, error: BaseException | None) -> object: ...


hookspec = pluggy.HookspecMarker("tailrace")
hookimpl = pluggy.HookimplMarker("tailrace")


@hookspec
def tailrace_register(register: Register) -> None:
    """Offer sources, sinks, formats and checkpoint stores by name, without importing a driver."""


@hookspec
def pipeline_started(name: str, source: str, sink: str) -> None:
    """A pipeline has opened both ends and begins to read."""


@hookspec
def pipeline_stopped(name: str, error: BaseException | None) -> None:
    """A pipeline has ended: drained (None) or with an error."""
