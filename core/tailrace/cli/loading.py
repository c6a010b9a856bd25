"""Settings for the verbs: collected and checked, and their secrets known to `reporting`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tailrace.cli.options import Given, Options
from tailrace.cli.reporting import scrub
from tailrace.errors import ConfigError
from tailrace.log import configure
from tailrace.registry import Registry
from tailrace.resolve import Resolved, default_name, resolve, secrets_of
from tailrace.settings import Settings, collect


def settings_of(given: Given) -> list[Settings]:
    """The settings of each pipeline that was asked for. Raises ConfigError."""
    found = collect(given.arguments, os.environ, config=given.config, pipelines=given.pipelines)
    for settings in found:
        hidden, public = secrets_of(settings, ())
        scrub.hide(hidden, public=public if hidden else ())
    return found


def resolved_of(
    settings: Sequence[Settings], registry: Registry, *, drivers: bool = True
) -> list[Resolved]:
    """What the settings of each pipeline mean. Raises ConfigError with every problem of all."""
    problems: list[ConfigError] = []
    found: list[Resolved] = []
    for each in settings:
        where = f"{default_name(each)}: " if len(settings) > 1 else ""
        try:
            found.append(resolve(each, registry, drivers=drivers))
        except ConfigError as error:
            problems += [ConfigError(where + p.message, mend=p.mend) for p in error.problems]
    problems += _same_names(found)
    if problems:
        raise ConfigError.of(problems)
    for resolved in found:
        hidden, public = secrets_of(resolved.settings, resolved.keys)
        scrub.hide(hidden, public=public)
    return found


def _same_names(found: Sequence[Resolved]) -> list[ConfigError]:
    counted = Counter(resolved.name for resolved in found)
    return [
        ConfigError(f"name = {name!r}: {count} pipelines have it", mend="give each its own name")
        for name, count in counted.items()
        if count > 1
    ]


@dataclass(frozen=True)
class Loaded:
    """The pipelines to run, and the plugins that they come from."""

    pipelines: Sequence[Resolved]
    registry: Registry


def load(
    given: Given, options: Options, change: Callable[[Settings], Settings] = lambda s: s
) -> Loaded:
    """Configure the log, then read and check the settings."""
    configure(options.log_format, scrub, verbose=options.verbose)
    registry = Registry()
    settings = [change(each) for each in settings_of(given)]
    return Loaded(resolved_of(settings, registry), registry)
