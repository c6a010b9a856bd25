"""A pipeline's checkup: what keeps it from running, and what will bite it some day.

Source, sink and store are asked, each for a limited time; then the saved position is held
against what the source still has. Nothing is changed anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

from msgspec import Struct

from tailrace.assembly import build
from tailrace.backfill import Backfill
from tailrace.buffer import Buffer
from tailrace.checkpoint import Checkpoint, refuse_foreign
from tailrace.config import PipelineConfig
from tailrace.connector import BackfillSource, Finding, Sink, Source, findings_of
from tailrace.errors import PositionLostError, TailraceError
from tailrace.pipeline import Pipeline
from tailrace.redact import mask
from tailrace.resolve import Resolved
from tailrace.retry import Retry

PATIENCE = 10.0
"""Seconds that each part has for its answer."""

PLANNING = 5.0
"""Seconds of these for what is left to be read: nice to know, no more."""

_SILENT = "see whether it is up, and what stands between: a firewall, a proxy, a full disk"


class Part(Struct, frozen=True):
    """One end of the pipeline, or its checkpoint, and what was found there."""

    part: str
    name: str
    findings: Sequence[Finding]


class Checkup(Struct, frozen=True):
    """All that was found about one pipeline."""

    pipeline: str
    parts: Sequence[Part]

    def count(self, level: str) -> int:
        return sum(finding.level == level for part in self.parts for finding in part.findings)


async def examine(resolved: Resolved) -> Checkup:
    """Ask all parts at the same time; what one does not answer does not keep the others waiting."""
    pipeline = build(resolved)
    source, sink, store = await asyncio.gather(
        _asked("source", pipeline.source.check()),
        _asked("sink", pipeline.sink.check()),
        _asked("store", pipeline.store.check()),
    )
    if not _has_errors(store):
        store += await _asked("saved", _saved(resolved, source))
    return Checkup(
        resolved.name,
        (
            Part("source", resolved.source.offer.name, source),
            Part("sink", resolved.sink.offer.name, sink),
            Part("checkpoint", mask(resolved.pipeline.checkpoint), store),
        ),
    )


def _has_errors(findings: Sequence[Finding]) -> bool:
    return any(finding.level == "error" for finding in findings)


async def _asked(subject: str, work: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        async with asyncio.timeout(PATIENCE):
            return await work
    except TimeoutError:
        text = f"has not answered within {PATIENCE:.0f} s"
        return [Finding("error", subject, text, _SILENT)]
    except TailraceError as error:
        return findings_of(error, subject)


async def _saved(resolved: Resolved, source: Sequence[Finding]) -> list[Finding]:
    """What is saved, and what the next start would make of it.

    The source is opened for that, if its own check, which found `source`, has reached anything.
    What keeps it from opening is told unless that check has found errors, of which it is one.
    """
    parts = build(resolved)
    saved = await parts.store.peek(resolved.name)
    found = [Finding("ok", "saved", _described(saved))]
    if not any(finding.level == "ok" for finding in source):
        return found
    try:
        async with parts.source:
            found.append(await _resumed(resolved, saved, parts))
            found += await _backfill(resolved.pipeline, saved, parts.source)
    except TailraceError as error:
        found += () if _has_errors(source) else findings_of(error, "start")
    return found


async def _resumed(resolved: Resolved, saved: Checkpoint | None, parts: Pipeline) -> Finding:
    try:
        return await _honoured(resolved.name, saved, parts.source, parts.sink)
    except PositionLostError as error:
        [lost] = findings_of(error, "position")
        if resolved.pipeline.on_lost == "fail":
            return lost
        text = f"{lost.text}; the next start begins anew, as on_lost=resnapshot says"
        return Finding("warning", "position", text, lost.mend)


async def _honoured(name: str, saved: Checkpoint | None, source: Source, sink: Sink) -> Finding:
    if saved is None:
        await source.begin()
        return Finding("ok", "position", "none yet: the pipeline begins with what is there now")
    refuse_foreign(name, saved, source.identity)
    if saved.position is None:
        return Finding("ok", "position", "none yet: the first start was broken off")
    try:
        return await source.check_position(saved.position)
    except PositionLostError:
        sink.source = source.identity
        stored = await sink.peek()
        if stored is None or not source.passed(stored, saved.position):
            raise
        return await source.check_position(stored)  # a start takes the newer one


async def _backfill(
    config: PipelineConfig, saved: Checkpoint | None, source: Source
) -> list[Finding]:
    """What is left to be read, and settings that name what is not there."""
    if not isinstance(source, BackfillSource):
        return []
    backfill = Backfill(source, config, Retry("backfill"), Buffer(1, 1, 1).put)
    try:
        async with asyncio.timeout(PLANNING):
            tables = await backfill.plan(saved.tables if saved else {})
    except TimeoutError:
        text = f"not known within {PLANNING:.0f} s: there are many tables, or the server is slow"
        return [Finding("ok", "backfill", text)]
    except TailraceError as error:
        return findings_of(error, "backfill")
    left = [label for label, progress in tables.items() if not progress.done]
    rows = sum(backfill.estimates.get(label, 0) for label in left)
    text = f"tables to be read: {len(left)}, rows: about {rows:,}" if left else "nothing to be read"
    return [Finding("ok", "backfill", text)]


def _described(saved: Checkpoint | None) -> str:
    if saved is None:
        return "nothing yet"
    done = sum(table.done for table in saved.tables.values())
    backfill = f", backfill: {done} of {len(saved.tables)} tables done" if saved.tables else ""
    return f"{saved.position or 'no position yet'} of {saved.source}, epoch {saved.epoch}{backfill}"
