"""What every verb shares: global options, and where settings come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from tailrace.cli import completion

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass
class Options:
    """The global options; they may stand before or after the verb."""

    log_format: Literal["text", "json"] = "text"
    verbose: bool = False


@dataclass(frozen=True)
class Given:
    """Where a verb takes its settings from."""

    arguments: tuple[str, ...] = ()
    config: Path | None = None
    pipelines: tuple[str, ...] = field(default=())


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    options = context.find_object(Options)
    if options is not None and parameter.name and value:
        setattr(options, parameter.name, value)


def shared(function: _Function) -> _Function:
    """Add ``--log-format`` and ``-v``."""
    function = click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_remember,
        help="Say more, and show where an error comes from.",
    )(function)
    return click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        expose_value=False,
        callback=_remember,
        help="Log as text or as one JSON object a line.",
    )(function)


def configured(function: _Function) -> _Function:
    """Add ``key=value…``, ``--config`` and ``--pipeline``."""
    function = click.option(
        "pipelines",
        "--pipeline",
        metavar="NAME",
        multiple=True,
        shell_complete=completion.pipelines,
        help="Only this pipeline of the file; may be given more than once.",
    )(function)
    function = click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Settings file; cdc.toml where there is one.",
    )(function)
    return click.argument(
        "arguments", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=completion.settings
    )(function)


as_json = click.option("as_json", "--json", is_flag=True, help="Write JSON.")
