"""From settings that hold to a pipeline: its parts are made here, and opened by the pipeline."""

from __future__ import annotations

from msgspec.structs import replace

from tailrace.formats import Format
from tailrace.hookspecs import Hooks
from tailrace.pipeline import Pipeline
from tailrace.resolve import Resolved


def build(
    resolved: Resolved, *, format: Format | None = None, hooks: Hooks | None = None
) -> Pipeline:
    """The pipeline that `resolved` describes. No I/O. `format` takes the configured one's place."""
    setup = resolved.setup
    source, sink = resolved.source, resolved.sink
    shape = format or resolved.format.offer.load()(
        resolved.format.config, name=setup.name, connector=setup.connector
    )
    delivering = sink.offer.load()(sink.config, setup, shape)
    reading = source.offer.load()(source.config, replace(setup, whole=delivering.whole))
    return Pipeline(
        resolved.pipeline,
        reading,
        delivering,
        resolved.store.load()(resolved.location),
        hooks,
    )
