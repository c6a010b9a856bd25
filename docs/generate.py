"""Writes the generated parts of README.md and docs/**/*.md, or with --check names what drifts.

A part stands between ``<!-- generated: WHAT -->`` and ``<!-- end -->``. WHAT is ``pipeline`` (the
pipeline's own keys), ``describe PLUGIN`` (a plugin's keys), ``help [VERB…]`` (its ``--help``) or
``types postgres`` (what its columns' values become).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import click
import postgres_types

from tailrace.cli.app import cdc
from tailrace.cli.describing import HEAD, keys, rows, use
from tailrace.config import PipelineConfig
from tailrace.keys import Key, keys_of
from tailrace.registry import Registry

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 90

_PART = re.compile(
    r"(?P<begin><!-- generated: (?P<what>[\w .-]+?) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)


def generated(what: str) -> str:
    """The text that belongs between the markers of `what`."""
    word, *rest = what.split()
    match word:
        case "pipeline":
            return _table(keys_of(PipelineConfig))
        case "describe":
            return "\n".join(_described(name) for name in rest)
        case "help":
            return _help(rest)
        case "types" if rest == ["postgres"]:
            return postgres_types.table()
    raise SystemExit(f"cannot generate {what!r}")


def _described(name: str) -> str:
    tables = [
        f"`{use(offer)}`\n\n{_table(listed)}" if (listed := keys(offer)) else f"`{use(offer)}`\n"
        for offer in Registry().offers(name)
    ]
    return "\n".join(tables)


def _table(listed: Iterable[Key]) -> str:
    head = f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}\n"
    return head + "".join(_row(row) for row in rows(list(listed)))


def _row(row: tuple[str, str, str, str]) -> str:
    key, kind, default, meaning = (cell.replace("|", "\\|") for cell in row)
    shown = f"`{default}`" if default not in ("required", "none") else default
    return f"| `{key}` | {kind} | {shown} | {meaning} |\n"


def _help(verbs: Iterable[str]) -> str:
    command: click.Command = cdc
    settings = {**cdc.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(cdc, info_name="cdc", **settings)
    for verb in verbs:
        assert isinstance(command, click.Group)
        command = command.commands[verb]
        context = click.Context(command, info_name=verb, parent=context, **settings)
    return f"```text\n{command.get_help(context)}\n```\n"


def renewed(text: str) -> str:
    """`text` with each part between markers made anew."""
    return _PART.sub(
        lambda part: part["begin"] + generated(part["what"]) + part["end"],
        text,
    )


def pages() -> list[Path]:
    return [
        page for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))] if page.exists()
    ]


def main(arguments: list[str]) -> int:
    drifted = []
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = renewed(before)
        if after != before:
            drifted.append(page.relative_to(ROOT))
            if "--check" not in arguments:
                page.write_text(after, encoding="utf-8")
    for page in drifted:
        print(f"{page}: {'drifts; run make docs' if '--check' in arguments else 'written'}")
    return 1 if drifted and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
