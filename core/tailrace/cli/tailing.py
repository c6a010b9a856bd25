"""``cdc tail``: changes as they are committed. No sink to set up, no checkpoint, nothing kept."""

from __future__ import annotations

import asyncio
import os
import sys

from tailrace.assembly import build
from tailrace.cli.console import ConsoleFormat
from tailrace.cli.loading import load
from tailrace.cli.options import Given, Options
from tailrace.cli.running import serve
from tailrace.errors import ConfigError, PermanentError
from tailrace.keys import keys_of
from tailrace.pipeline import Pipeline
from tailrace.registry import Registry
from tailrace.resolve import Resolved
from tailrace.settings import Settings

_ORIGIN = "cdc tail"


def tail(given: Given, options: Options, *, as_json: bool) -> int:
    """Print changes until stopped, or until nobody reads them any more."""
    resolved = load(given, options, _for_tail).pipelines
    pipelines = {each.name: _build(each, as_json=as_json) for each in resolved}
    try:
        asyncio.run(serve(pipelines, None, once=False))
    except PermanentError as error:
        if not isinstance(error.__cause__, BrokenPipeError):
            raise
    return 0


def _build(resolved: Resolved, *, as_json: bool) -> Pipeline:
    if as_json:
        return build(resolved)
    setup = resolved.setup
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    console = ConsoleFormat(None, name=setup.name, connector=setup.connector, colour=colour)
    return build(resolved, format=console)


def _for_tail(settings: Settings) -> Settings:
    """The same source under another name: with no sink, checkpoint or slot of its own to keep."""
    source = settings.get("source", "")
    dropped = [key for key in settings if key.startswith(("sink.", "format."))]
    changes: dict[str, str | None] = dict.fromkeys(dropped)
    changes |= {
        "name": f"{settings.get('name') or source}-tail",
        "sink": "stdout",
        "format": "json",
        "checkpoint": "memory:",
        "snapshot": "never",
    }
    own = {"source.temporary": "true", "source.slot": f"cdc_tail_{os.getpid()}"}
    offered = _source_keys(source)
    changes |= {key: value for key, value in own.items() if key in offered}
    return settings.replace(changes, _ORIGIN)


def _source_keys(source: str) -> set[str]:
    try:
        return {key.name for key in keys_of(Registry().offer("source", source).config, "source.")}
    except ConfigError:  # told with all other problems
        return set()
