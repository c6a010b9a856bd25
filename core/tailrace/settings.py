"""Settings: text by dotted key, from file, environment and command line, in that order.

Here they are collected, merged and interpolated, and it is remembered where each came from. What
they mean is decided in `resolve`, by the models of the pipeline and its plugins.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path

from tailrace.errors import ConfigError

FILE = Path("cdc.toml")
ENVIRONMENT = "CDC__"

_NAMED_BY_TYPE = ("source", "sink", "format")
_REFERENCE = re.compile(r"\$(?P<escape>\$(?=\{))|\$\{(?P<body>[^}]*)\}")
_VARIABLE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:-(?P<default>.*))?", re.DOTALL)


@dataclass(frozen=True)
class Setting:
    """One value: as written, with references in it replaced, and where it was written."""

    raw: str
    value: str
    origin: str


@dataclass(frozen=True)
class Settings(Mapping[str, str]):
    """The settings of one pipeline: values by dotted key."""

    entries: Mapping[str, Setting] = field(default_factory=dict)

    def __getitem__(self, key: str) -> str:
        return self.entries[key].value

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def replace(self, changes: Mapping[str, str | None], origin: str) -> Settings:
        """A copy in which keys have other values, or are gone (None)."""
        entries = dict(self.entries)
        for key, value in changes.items():
            if value is None:
                entries.pop(key, None)
            else:
                entries[key] = Setting(value, value, origin)
        return Settings(entries)


@dataclass(frozen=True)
class Layer:
    """Values from one place; `origins` names the place for each key."""

    values: Mapping[str, str]
    origins: Mapping[str, str]


def collect(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    config: Path | None = None,
    pipelines: Sequence[str] = (),
) -> list[Settings]:
    """The settings of each pipeline that was asked for.

    The file (`config`, or ``cdc.toml`` where there is one) gives a pipeline for each of its
    tables, or those named in `pipelines`. It is left alone if `arguments` name source and sink
    and neither it nor a pipeline of it was asked for. Raises ConfigError with every problem.
    """
    command_line = parse_arguments(arguments)
    whole = {"source", "sink"} <= command_line.values.keys() and not pipelines
    path = config or (FILE if FILE.exists() and not whole else None)
    tables = _chosen(read_file(path), pipelines, path) if path else [Layer({}, {})]
    if not path and pipelines:
        raise ConfigError(
            f"--pipeline {pipelines[0]}: there is no {FILE} here",
            mend="name the file with --config",
        )
    rest = [read_environment(environ), command_line]
    merged = [_merge([table, *rest]) for table in tables]
    problems: list[ConfigError] = []
    found = [_interpolated(layer, environ, problems) for layer in merged]
    if problems:
        raise ConfigError.of(problems)
    return found


def parse_arguments(arguments: Sequence[str]) -> Layer:
    """``key=value`` arguments, split at the first ``=``; the value may hold anything."""
    values: dict[str, str] = {}
    problems = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        key = _key(key.strip())
        if not equals or not key:
            shown = argument if not equals else "=…"
            text = f"{shown!r} is not a setting"
            problems.append(ConfigError(text, mend="write key=value, as in source=postgres"))
        elif key in values:
            text = f"{key} is given twice"
            problems.append(ConfigError(text, mend="give it once; items of a list: a,b"))
        values[key] = value
    if problems:
        raise ConfigError.of(problems)
    return Layer(values, dict.fromkeys(values, "command line"))


def read_environment(environ: Mapping[str, str]) -> Layer:
    """``CDC__BATCH__EVENTS=100`` is ``batch.events=100``: two underscores are a dot."""
    names = {
        _key(name.removeprefix(ENVIRONMENT).lower().replace("__", ".")): name
        for name in environ
        if name.startswith(ENVIRONMENT)
    }
    return Layer(
        {key: environ[name] for key, name in names.items()},
        {key: f"environment {name}" for key, name in names.items()},
    )


def read_file(path: Path) -> dict[str, Layer]:
    """The pipelines of a TOML file, one for each table; the table's name is the pipeline's."""
    document = _parsed(path)
    if astray := [key for key, value in document.items() if not isinstance(value, dict)]:
        raise ConfigError.of([_astray(path, key) for key in astray])
    if astray := [key for key in document if key in _NAMED_BY_TYPE]:
        raise ConfigError.of([_astray(path, key) for key in astray])
    if not document:
        raise ConfigError(f"{path} has no pipeline", mend="begin a table with its name: [orders]")
    layers = {}
    for name, table in document.items():
        values = {"name": name}
        assert isinstance(table, dict)
        for key, value in _flatten(table, ""):
            values[_key(key)] = _text(value, f"{path} [{name}] {key}")
        layers[name] = Layer(values, dict.fromkeys(values, f"{path} [{name}]"))
    return layers


def _parsed(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        text = f"cannot read {path}: {error.strerror}"
        raise ConfigError(text, mend="name a file that can be read with --config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8", mend="save it as UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        mend = 'mend that line; beside source.dsn the plugin is written source.type = "postgres"'
        raise ConfigError(f"{path} is not TOML: {error}", mend=mend) from error


def _astray(path: Path, key: str) -> ConfigError:
    return ConfigError(
        f"{path}: {key!r} belongs to no pipeline",
        mend=f"put it below a table with the pipeline's name: [orders], or [orders.{key}]",
    )


def _chosen(tables: Mapping[str, Layer], pipelines: Sequence[str], path: Path) -> list[Layer]:
    if unknown := [name for name in pipelines if name not in tables]:
        known = ", ".join(tables)
        raise ConfigError.of(
            [
                ConfigError(f"{path} has no pipeline {name!r}", mend=f"it has: {known}")
                for name in unknown
            ]
        )
    return [tables[name] for name in pipelines or tables]


def _flatten(value: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for key, each in value.items():
        if isinstance(each, dict):
            yield from _flatten(each, f"{prefix}{key}.")
        else:
            yield prefix + key, each


def _text(value: object, where: str) -> str:
    match value:
        case bool():
            return str(value).lower()
        case list() if not any(isinstance(each, list | dict) for each in value):
            return ",".join(_text(each, where) for each in value)
        case str() | int() | float():
            return str(value)
        case datetime() | date() | time():
            return value.isoformat()
    raise ConfigError(f"{where} is a list of lists or tables", mend="write a list of plain values")


def _key(key: str) -> str:
    """``source.type`` is another way to write ``source``; TOML has no other beside source.dsn."""
    head, _, tail = key.partition(".")
    return head if tail == "type" and head in _NAMED_BY_TYPE else key


def _merge(layers: Sequence[Layer]) -> Layer:
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        values.update(layer.values)
        origins.update(layer.origins)
    return Layer(values, origins)


def _interpolated(
    layer: Layer, environ: Mapping[str, str], problems: list[ConfigError]
) -> Settings:
    entries = {}
    for key, raw in layer.values.items():
        try:
            value = interpolate(raw, environ, key)
        except ConfigError as error:
            problems.extend(error.problems)
        else:
            entries[key] = Setting(raw, value, layer.origins[key])
    return Settings(entries)


def interpolate(text: str, environ: Mapping[str, str], key: str) -> str:
    """Replace ``${NAME}``, ``${NAME:-default}`` and ``${file:/path}``; ``$${`` is a plain ``${``.

    Raises ConfigError that names `key` and what is not there. What comes out is not looked at
    again, so a secret may hold any character.
    """

    def replaced(match: re.Match[str]) -> str:
        return "$" if match["escape"] else _referenced(match["body"], environ, key)

    return _REFERENCE.sub(replaced, text)


def _referenced(body: str, environ: Mapping[str, str], key: str) -> str:
    if body.startswith("file:"):
        return _file(Path(body.removeprefix("file:")), key)
    match = _VARIABLE.fullmatch(body)
    if match is None:
        raise ConfigError(
            f"{key}: there is a ${{…}} in it that is no reference",
            mend="write ${NAME}, ${NAME:-default} or ${file:/path}; a plain ${ is written $${",
        )
    name, default = match["name"], match["default"]
    if default is not None:
        return environ.get(name) or default
    if name not in environ:
        raise ConfigError(
            f"{key}: the environment has no variable {name}",
            mend=f"set it, or give a default: ${{{name}:-…}}",
        )
    return environ[name]


def _file(path: Path, key: str) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        text = f"{key}: cannot read {path}: {error.strerror}"
        raise ConfigError(text, mend="make the file readable to this user") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{key}: {path} is not UTF-8", mend="save it as UTF-8 text") from error
