"""Shell completion: keys and values of ``KEY=VALUE`` from the plugins' models, and names.

Everything heavy is imported when the shell asks; a plugin's driver never.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

if TYPE_CHECKING:
    from tailrace.keys import Key
    from tailrace.registry import Kind, Registry
    from tailrace.settings import Settings

SHELLS = ("bash", "zsh", "fish")

_PROGRAM = "cdc"
_VARIABLE = "_CDC_COMPLETE"
_KINDS: tuple[Kind, ...] = ("source", "sink", "format")

Items = list[CompletionItem]


def script(shell: str, command: click.Command) -> str:
    """What the shell has to read to complete `command`."""
    kind: type[ShellComplete] | None = get_completion_class(shell)
    assert kind is not None
    return kind(command, {}, _PROGRAM, _VARIABLE).source()


def settings(context: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """Keys that may follow what is on the line; behind a key's ``=``, its values."""
    from tailrace.registry import Registry

    key, equals, typed = incomplete.partition("=")
    given, registry = _given(context), Registry()
    if not equals:
        return [item for item in _keys(given, registry) if item.value.startswith(key)]
    values = [f"{key}={value}" for value in _values(key, given, registry)]
    if not values and _type_of(key, given, registry) == "path":
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(value) for value in values if value.startswith(f"{key}={typed}")]


def pipelines(context: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """The pipelines of ``--config``, or of cdc.toml."""
    from tailrace.errors import ConfigError
    from tailrace.settings import FILE, read_file

    try:
        names = read_file(context.params.get("config") or FILE)
    except ConfigError:
        return []
    return _beginning(names, incomplete)


def plugins(context: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """The installed plugins; none is imported."""
    from tailrace.registry import Registry

    return _beginning((entry.name for entry in Registry().available()), incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> Items:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _given(context: click.Context) -> Settings:
    """The settings so far; of what does not hold, only what is on the line."""
    from tailrace.errors import ConfigError
    from tailrace.settings import Settings, collect

    arguments: tuple[str, ...] = context.params.get("arguments") or ()
    chosen = context.params.get("pipelines") or ()
    try:
        config: Path | None = context.params.get("config")
        return collect(arguments, os.environ, config=config, pipelines=chosen)[0]
    except ConfigError:
        pairs = (argument.partition("=") for argument in arguments)
        return Settings().replace({key: value for key, _, value in pairs}, "command line")


def _listed(given: Settings, registry: Registry) -> Iterator[Key]:
    """Every key of the pipeline and of those of its plugins that are known."""
    from tailrace.config import PipelineConfig
    from tailrace.errors import ConfigError
    from tailrace.keys import keys_of

    yield from keys_of(PipelineConfig)
    for kind in _KINDS:
        try:
            if kind in given:
                yield from keys_of(registry.offer(kind, given[kind]).config, f"{kind}.")
        except ConfigError:
            continue


def _keys(given: Settings, registry: Registry) -> Iterator[CompletionItem]:
    from tailrace.keys import FAMILY

    for key in _listed(given, registry):
        if key.name.endswith(FAMILY):
            yield CompletionItem(key.name.removesuffix("*"), help=key.description)
        elif key.name not in given or given.entries[key.name].origin != "command line":
            yield CompletionItem(f"{key.name}=", help=key.description)


def _values(key: str, given: Settings, registry: Registry) -> list[str]:
    if key in _KINDS:
        return _offered(key, registry)
    if key == "checkpoint":
        return [f"{name}:" for name in _offered("store", registry)]
    words = _type_of(key, given, registry).split(" | ")
    return words if len(words) > 1 else []


def _offered(kind: Kind, registry: Registry) -> list[str]:
    """The plugins that offer such a thing; one that does not load offers nothing."""
    from tailrace.errors import ConfigError

    names = []
    for entry in registry.available():
        try:
            names += [offer.name for offer in registry.offers(entry.name) if offer.kind == kind]
        except ConfigError:
            continue
    return names


def _type_of(name: str, given: Settings, registry: Registry) -> str:
    return next((key.type for key in _listed(given, registry) if key.covers(name)), "")


# Bash breaks words at the = and : inside of a setting, so the line is taken as it was typed, and
# of each completion only what follows the last break is given back.
_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' type value
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            file|dir) compopt -o default ;;
            *) COMPREPLY+=("$value"); [[ $value == *[=.:] ]] && compopt -o nospace ;;
        esac
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class SettingsInBash(BashComplete):
    """Completes ``source=po``, which is three words to Bash."""

    source_template = _BASH
    _before = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)
        incomplete = "" if line[-1:].isspace() else words.pop()
        breaks = [char for char in "=:" if char in os.environ.get("COMP_WORDBREAKS", "")]
        last = max([incomplete.rfind(char) for char in breaks], default=-1)
        self._before = incomplete[: last + 1]
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{item.value.removeprefix(self._before)}"


add_completion_class(SettingsInBash)
