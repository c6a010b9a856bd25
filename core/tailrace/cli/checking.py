"""``cdc check``: the checkup of every pipeline, for a person or as JSON."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import Iterator, Sequence

import click
from msgspec import to_builtins

from tailrace.checkup import Checkup, Part, examine
from tailrace.cli.loading import load
from tailrace.cli.options import Given, Options
from tailrace.cli.reporting import scrub
from tailrace.cli.tables import width
from tailrace.connector import Finding
from tailrace.errors import ConfigError
from tailrace.log import printable
from tailrace.resolve import Resolved

_MARKS = {"error": ("✗", "red"), "warning": ("!", "yellow"), "ok": ("✓", "green")}
_ORDER = list(_MARKS)
_NARROWEST = 40


def check(given: Given, options: Options, *, as_json: bool) -> int:
    """Print what is found; 2 if anything keeps a pipeline from running, else 0.

    Raises ConfigError, as ``cdc run`` does, for settings that do not hold.
    """
    checkups = asyncio.run(_examine(load(given, options).pipelines))
    for checkup in checkups:
        click.echo(_json(checkup) if as_json else _text(checkup))
    return ConfigError.exit_status if any(checkup.count("error") for checkup in checkups) else 0


async def _examine(pipelines: Sequence[Resolved]) -> list[Checkup]:
    return await asyncio.gather(*map(examine, pipelines))


def _json(checkup: Checkup) -> str:
    """One line, so that those of several pipelines can be told apart."""
    findings = [
        {"part": part.part, **to_builtins(_scrubbed(finding))}
        for part in checkup.parts
        for finding in part.findings
    ]
    counts = {"errors": checkup.count("error"), "warnings": checkup.count("warning")}
    return json.dumps({"pipeline": checkup.pipeline, "findings": findings, **counts})


def _text(checkup: Checkup) -> str:
    name = click.style(checkup.pipeline, bold=True)
    return "\n".join([name, *map(_part, checkup.parts), "", _counted(checkup), ""])


def _part(part: Part) -> str:
    findings = sorted(map(_scrubbed, part.findings), key=lambda f: _ORDER.index(f.level))
    column = max((len(finding.subject) for finding in findings), default=0)
    lines = [line for finding in findings for line in _lines(finding, column)]
    return "\n".join(["", f"  {part.part} {scrub(part.name)}", *lines])


def _lines(finding: Finding, column: int) -> Iterator[str]:
    """The finding, wrapped; its mending step is one line, to be copied as it is."""
    mark, colour = _MARKS[finding.level]
    indent = " " * (column + 8)
    first, *rest = textwrap.wrap(finding.text, max(_NARROWEST, width() - len(indent)))
    yield f"    {click.style(mark, fg=colour, bold=True)} {finding.subject:<{column}}  {first}"
    yield from (indent + line for line in rest)
    if finding.mend:
        yield f"{indent}{click.style('->', fg=colour)} {finding.mend}"


def _scrubbed(finding: Finding) -> Finding:
    """What the far end says may hold a secret, or what steers a terminal."""
    mend = printable(scrub(finding.mend)) if finding.mend else None
    subject, text = printable(finding.subject), printable(scrub(finding.text))
    return Finding(finding.level, subject, text, mend)


def _counted(checkup: Checkup) -> str:
    counts = {level: checkup.count(level) for level in _ORDER}
    worst = next(level for level in (*_ORDER, "ok") if counts[level] or level == "ok")
    errors, warnings = (_plural(counts[level], level) for level in ("error", "warning"))
    text = f"{checkup.pipeline}: {errors}, {warnings}, {counts['ok']} ok"
    return click.style(text, fg=_MARKS[worst][1])


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
