"""``cdc run``: pipelines in one event loop, until they are done or asked to stop."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence

from tailrace.assembly import build
from tailrace.cli.loading import load
from tailrace.cli.meter import Meter
from tailrace.cli.options import Given, Options
from tailrace.cli.signals import draining
from tailrace.cli.views import LiveView, LogView, View
from tailrace.pipeline import Pipeline
from tailrace.redact import mask
from tailrace.resolve import Resolved

log = logging.getLogger("tailrace.cli")


def run(given: Given, options: Options, *, once: bool) -> int:
    """Run every pipeline that was asked for; 0 once all have ended well, else raises."""
    loaded = load(given, options)
    resolved = loaded.pipelines
    pipelines = {each.name: build(each, hooks=loaded.registry.hook) for each in resolved}
    for each in resolved:
        log.info(_plan(each), extra={"pipeline": each.name})
    live = options.log_format == "text" and _has_screen(resolved)
    view = LiveView() if live else LogView()
    asyncio.run(serve(pipelines, view, once=once))
    return 0


def _plan(each: Resolved) -> str:
    ends = f"{each.source.offer.name} to {each.sink.offer.name} as {each.format.offer.name}"
    return f"{each.name}: {ends}, checkpoint {mask(each.pipeline.checkpoint)}"


def _has_screen(resolved: Sequence[Resolved]) -> bool:
    """Whether stderr is a terminal that no sink writes its events to."""
    printed = any(each.sink.offer.name == "stdout" for each in resolved)
    return sys.stderr.isatty() and not (printed and sys.stdout.isatty())


async def serve(pipelines: Mapping[str, Pipeline], view: View | None, *, once: bool) -> None:
    """Run the pipelines to their end. If one fails the others are drained, and its error raised."""

    def drain(reason: str) -> None:
        log.info("%s: delivering what was read; once more leaves at once", reason)
        for pipeline in pipelines.values():
            pipeline.drain()

    with draining(drain):
        tasks = [
            asyncio.create_task(pipeline.run(once=once), name=name)
            for name, pipeline in pipelines.items()
        ]
        watcher = asyncio.create_task(_watch(pipelines, view)) if view else None
        try:
            await _finish(tasks, pipelines)
        finally:
            if watcher is not None:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)
    _raise_from(tasks)


async def _finish(tasks: Sequence[asyncio.Task[None]], pipelines: Mapping[str, Pipeline]) -> None:
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    if not pending:
        return
    failed = next(task for task in done if task.exception())
    log.error("%s has failed: the other pipelines stop", failed.get_name())
    for pipeline in pipelines.values():
        pipeline.drain()
    await asyncio.wait(pending)


def _raise_from(tasks: Sequence[asyncio.Task[None]]) -> None:
    errors = [error for task in tasks if (error := task.exception())]
    if len(errors) > 1:
        raise BaseExceptionGroup("several pipelines have failed", errors)
    if errors:
        raise errors[0]


async def _watch(pipelines: Mapping[str, Pipeline], view: View) -> None:
    meters = [
        Meter(name, lambda pipeline=pipeline: pipeline.stats, view.window)  # type: ignore[misc]
        for name, pipeline in pipelines.items()
    ]
    with view:
        try:
            while True:
                for meter in meters:
                    meter.look()
                view.update(meters)
                await asyncio.sleep(1 / view.looks_per_second)
        finally:
            for meter in meters:
                meter.look()
            view.end(meters)
