"""From text to meaning: settings are checked and converted by the models of core and plugins.

Everything that is wrong with the settings is found here, all at once and before any I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tailrace.config import PipelineConfig, PluginConfig
from tailrace.connector import Setup
from tailrace.errors import ConfigError
from tailrace.keys import FAMILY, Key, keys_of
from tailrace.redact import is_address, mask, passwords
from tailrace.registry import Kind, Offer, Registry
from tailrace.settings import Settings

PARTS: tuple[Kind, ...] = ("source", "sink", "format")

_Model = TypeVar("_Model", bound=PluginConfig)
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Part:
    """A plugin of the pipeline and its configuration."""

    offer: Offer
    config: PluginConfig


@dataclass(frozen=True)
class Resolved:
    """Settings that hold: every value checked and converted."""

    settings: Settings
    pipeline: PipelineConfig
    source: Part
    sink: Part
    format: Part
    store: Offer
    location: str
    keys: Sequence[Key]

    @property
    def name(self) -> str:
        return self.pipeline.name

    @property
    def setup(self) -> Setup:
        return Setup(
            name=self.name,
            connector=self.source.offer.name,
            batch_events=max(1, self.pipeline.batch_events // 2),
            batch_bytes=max(1, self.pipeline.batch_bytes // 2),
            backfill=() if self.pipeline.snapshot == "never" else self.pipeline.snapshot_tables,
        )


def resolve(settings: Settings, registry: Registry, *, drivers: bool = True) -> Resolved:
    """Check `settings` against the pipeline's keys and those of its plugins.

    With `drivers` the plugins' own modules are loaded too, so that one that is missing is told
    with the rest. Raises ConfigError with every problem that there is.
    """
    return _Resolution(settings, registry, drivers).result()


def default_name(settings: Mapping[str, str]) -> str:
    """The pipeline's name: ``name``, or what its ends are called."""
    return settings.get("name") or f"{settings.get('source', '')}-{settings.get('sink', '')}"


def find_store(checkpoint: str, registry: Registry) -> tuple[Offer, str]:
    """The store and the location in ``sqlite:cdc.db``. Raises ConfigError."""
    name, colon, location = checkpoint.partition(":")
    if not colon:
        text = f"checkpoint = {mask(checkpoint)!r} names no store"
        raise ConfigError(text, mend=f"write the store before it: sqlite:{mask(checkpoint)}")
    try:
        return registry.offer("store", name), location
    except ConfigError as error:
        raise ConfigError(f"checkpoint: {error.message}", mend=error.mend) from error


def secrets_of(settings: Settings, keys: Sequence[Key]) -> tuple[set[str], set[str]]:
    """What must not be printed, and the words of these settings that may be all the same."""
    secret = {name for name in settings for key in keys if key.secret and key.covers(name)}
    hidden: set[str] = set()
    public: set[str] = set()
    for name, value in settings.items():
        inner = passwords(value)
        whole = name in secret and not is_address(value)
        hidden |= {value} if whole else inner
        public |= set() if inner or name in secret else {value}
        public |= _users(value) if inner else set()
    return hidden, public


def _users(dsn: str) -> set[str]:
    shown = mask(dsn).replace(":***@", " ").replace("/", " ").replace("=", " ").split()
    return {word.strip("'?") for word in shown}


class _Resolution:
    """One run over one pipeline's settings, gathering problems on the way."""

    def __init__(self, settings: Settings, registry: Registry, drivers: bool) -> None:
        self.settings = settings
        self.registry = registry
        self.drivers = drivers
        self.problems: list[ConfigError] = []
        self.keys = keys_of(PipelineConfig)

    def result(self) -> Resolved:
        offers = {kind: self._offer(kind) for kind in PARTS}
        models = {kind: self._model(offer) for kind, offer in offers.items() if offer}
        for kind, model in models.items():
            self.keys += keys_of(model, f"{kind}.") if model else []
        opaque = tuple(f"{kind}." for kind in PARTS if not models.get(kind))
        self.problems += self._unknown_keys(opaque)
        core = self._validated(PipelineConfig, "", _named(self.settings))
        configs = {
            kind: self._validated(model, f"{kind}.", self.settings)
            for kind, model in models.items()
            if model
        }
        store = self._try(lambda: find_store(self._setting("checkpoint"), self.registry))
        if self.drivers:
            for offer in (*offers.values(), store and store[0]):
                self._try(offer.load) if offer else None
        if self.problems:
            raise ConfigError.of(self.problems)
        assert core
        assert store
        parts = {}
        for kind in PARTS:
            offer, config = offers[kind], configs[kind]
            assert offer
            assert config
            parts[kind] = Part(offer, config)
        return Resolved(
            self.settings,
            core,
            parts["source"],
            parts["sink"],
            parts["format"],
            *store,
            self.keys,
        )

    def _setting(self, key: str) -> str:
        default: str = PipelineConfig.model_fields[key].get_default() or ""
        return self.settings.get(key, default)

    def _try(self, find: Callable[[], _Found]) -> _Found | None:
        try:
            return find()
        except ConfigError as error:
            self.problems += error.problems
            return None

    def _offer(self, kind: Kind) -> Offer | None:
        name = self.settings.get(kind, "json" if kind == "format" else "")
        return self._try(lambda: self.registry.offer(kind, name)) if name else None

    def _model(self, offer: Offer) -> type[PluginConfig] | None:
        return self._try(lambda: offer.config)

    def _unknown_keys(self, opaque: tuple[str, ...]) -> Iterator[ConfigError]:
        known = [key.name for key in self.keys]
        for name, entry in self.settings.entries.items():
            if opaque and name.startswith(opaque):
                continue
            if not any(key.covers(name) for key in self.keys):
                close = get_close_matches(name, known, n=1)
                hint = (
                    f"did you mean {close[0]}?" if close else _where_keys_are(name, self.settings)
                )
                yield ConfigError(f"unknown key {name!r} ({entry.origin})", mend=hint)

    def _validated(
        self, model: type[_Model], prefix: str, settings: Mapping[str, str]
    ) -> _Model | None:
        own = {key.name: key for key in keys_of(model, prefix)}
        values: dict[str, Any] = {
            name.removeprefix(prefix): settings[name] for name in own if name in settings
        }
        for family in (name for name in own if name.endswith(FAMILY)):
            stem = family.removesuffix("*")
            found = {k[len(stem) :]: settings[k] for k in settings if own[family].covers(k)}
            values |= {family.removeprefix(prefix): found} if found else {}
        try:
            return model.model_validate_strings(values)
        except ValidationError as error:
            self.problems += [
                self._problem(detail, own, prefix)
                for detail in error.errors(include_url=False, include_input=False)
            ]
            return None

    def _problem(self, detail: ErrorDetails, own: Mapping[str, Key], prefix: str) -> ConfigError:
        name = prefix + str(detail["loc"][0]) if detail["loc"] else ""
        key = own.get(name)
        if name.endswith(FAMILY) and len(detail["loc"]) > 1:
            name = name.removesuffix("*") + str(detail["loc"][1])
        entry = self.settings.entries.get(name)
        if key is None:
            return ConfigError(f"{prefix.rstrip('.') or 'settings'}: {_sentence(detail)}")
        if detail["type"] == "missing":
            mend = f"give {name}=… ({key.description[:1].lower()}{key.description[1:]})"
            return ConfigError(f"{name} is missing", mend=mend)
        sentence = _sentence(detail)
        if key.secret and entry is not None:
            sentence = sentence.replace(entry.value, "the value")
        shown = "" if key.secret or entry is None else f" = {_shown(entry.raw)}"
        origin = f" ({entry.origin})" if entry else ""
        return ConfigError(f"{name}{shown}: {sentence}{origin}", mend=f"{name} takes: {key.type}")


def _named(settings: Settings) -> Mapping[str, str]:
    return {**settings, "name": default_name(settings)}


def _where_keys_are(name: str, settings: Settings) -> str:
    kind = name.partition(".")[0]
    plugin = settings.get(kind) if kind in PARTS and "." in name else None
    return f"cdc describe {plugin} lists its keys" if plugin else "cdc run --help lists the keys"


def _shown(raw: str) -> str:
    text = mask(raw)
    return repr(text if len(text) <= 80 else text[:79] + "…")


_SENTENCES = {
    "int_parsing": "not a whole number",
    "int_parsing_size": "too large a number",
    "int_from_float": "not a whole number",
    "float_parsing": "not a number",
    "bool_parsing": "neither true nor false",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "byte_size": "not a size; write 4MiB, 500kB or a number of bytes",
    "byte_size_unit": "not a size; write 4MiB, 500kB or a number of bytes",
}


def _sentence(detail: ErrorDetails) -> str:
    context: dict[str, Any] = detail.get("ctx", {})
    if detail["type"] in _SENTENCES:
        return _SENTENCES[detail["type"]].format(**context)
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text[:1].lower() + text[1:]
