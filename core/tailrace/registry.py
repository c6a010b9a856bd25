"""Plugins: found by the entry-point group ``tailrace``, loaded by name, and only then.

An entry point's name is what a user writes (``source=postgres``); its module implements the hook
`tailrace.hookspecs.tailrace_register` and says there where connector and configuration are. So
asking for a plugin imports that plugin alone, and its driver only when the connector is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any, Literal

import pluggy

from tailrace import hookspecs
from tailrace.errors import ConfigError

GROUP = "tailrace"
OURS = "tailrace"

Kind = Literal["source", "sink", "format", "store"]
KINDS: tuple[Kind, ...] = ("source", "sink", "format", "store")

ClassOrPath = type[Any] | str
"""A class, or ``module:Class`` to import when it is needed."""


class Entry:
    """An installed plugin: an entry point and the distribution that brought it. Not imported."""

    def __init__(self, point: EntryPoint, distribution: Distribution) -> None:
        self.point = point
        self.name = point.name
        self.module = point.module
        self.distribution = str(distribution.metadata["Name"])
        self.version = distribution.version

    @property
    def ours(self) -> bool:
        return self.distribution == OURS

    @property
    def origin(self) -> str:
        """Where it comes from, for a person: ``tailrace 0.1.0``."""
        return f"{self.distribution} {self.version}"

    def install(self, extra: str | None) -> str:
        """The command that brings the plugin with what it needs."""
        wanted = f"'{self.distribution}[{extra}]'" if extra else self.distribution
        return f"pip install {wanted}"


class Offer:
    """Something that a plugin offers under a name: a source, a sink, a format or a store."""

    def __init__(
        self,
        kind: Kind,
        name: str,
        entry: Entry,
        *,
        code: ClassOrPath,
        config: ClassOrPath | None,
        extra: str | None,
    ) -> None:
        self.kind = kind
        self.name = name
        self.entry = entry
        self.extra = extra
        self._code = code
        self._config = config

    @property
    def config(self) -> type[Any]:
        """The configuration model (`tailrace.config.PluginConfig`); needs no driver.

        A store has none: LookupError. Raises ConfigError if the plugin is broken.
        """
        if self._config is None:
            raise LookupError(f"a {self.kind} has no configuration of its own")
        return self._import(self._config)

    def load(self) -> type[Any]:
        """The connector, format or store class. Raises ConfigError if its driver is missing."""
        return self._import(self._code)

    def _import(self, target: ClassOrPath) -> type[Any]:
        if not isinstance(target, str):
            return target
        module, _, name = target.partition(":")
        try:
            found: type[Any] = getattr(import_module(module), name)
        except Exception as error:
            raise _unloadable(self.entry, error, self.extra, f"{self.kind} ") from error
        return found


class Register:
    """Given to a plugin's hook ``tailrace_register``, which says here what the plugin offers.

    Every name must be that of an entry point that leads to the same module. `connector`,
    `config`, `format` and `store` are classes, or ``"module:Class"`` to be imported when used;
    the configuration's module must not import the driver. `extra` names the extra of the
    distribution that installs the driver.
    """

    def __init__(self, entry: Entry, names: Iterable[str]) -> None:
        self.offers: list[Offer] = []
        self._entry = entry
        self._names = frozenset(names)

    def source(
        self, name: str, *, connector: ClassOrPath, config: ClassOrPath, extra: str | None = None
    ) -> None:
        self._add("source", name, connector, config, extra)

    def sink(
        self, name: str, *, connector: ClassOrPath, config: ClassOrPath, extra: str | None = None
    ) -> None:
        self._add("sink", name, connector, config, extra)

    def format(
        self, name: str, *, format: ClassOrPath, config: ClassOrPath, extra: str | None = None
    ) -> None:
        self._add("format", name, format, config, extra)

    def store(self, name: str, *, store: ClassOrPath, extra: str | None = None) -> None:
        self._add("store", name, store, None, extra)

    def _add(
        self,
        kind: Kind,
        name: str,
        code: ClassOrPath,
        config: ClassOrPath | None,
        extra: str | None,
    ) -> None:
        if name not in self._names:
            raise ValueError(f"it offers {name!r}, but has no entry point of that name")
        offer = Offer(kind, name, self._entry, code=code, config=config, extra=extra)
        self.offers.append(offer)


class Registry:
    """The plugins of this environment. Makes no import before one is asked for by name."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(GROUP)
        self.manager.add_hookspecs(hookspecs)
        self._entries = _installed()
        self._offers: dict[tuple[Kind, str], Offer] = {}
        self._loaded: dict[str, ConfigError | None] = {}

    @property
    def hook(self) -> Any:
        """The hooks of all plugins that are loaded so far."""
        return self.manager.hook

    def available(self) -> list[Entry]:
        """Every installed plugin by name, sorted; none is imported."""
        return sorted(self._entries.values(), key=lambda entry: entry.name)

    def offer(self, kind: Kind, name: str) -> Offer:
        """What is offered as a `kind` under `name`; imports that one plugin.

        Raises ConfigError for a name that is not installed, is another kind of thing, or whose
        plugin does not load.
        """
        if name in self._entries:
            self._load(name)
        found = self._offers.get((kind, name))
        if found is None:
            raise self._unknown(kind, name)
        return found

    def offers(self, name: str) -> list[Offer]:
        """Everything offered under `name`, in the order of KINDS. Raises ConfigError if none."""
        if name not in self._entries:
            raise self._unknown("plugin", name)
        self._load(name)
        return [self._offers[kind, name] for kind in KINDS if (kind, name) in self._offers]

    def _load(self, name: str) -> None:
        """Import the plugin once; a second call repeats its error, if any."""
        entry = self._entries[name]
        if entry.module not in self._loaded:
            self._loaded[entry.module] = self._register(entry)
        if error := self._loaded[entry.module]:
            raise error

    def _register(self, entry: Entry) -> ConfigError | None:
        # Not load_setuptools_entrypoints(): pluggy refuses one module under two names, and takes
        # whichever distribution comes first where two claim one name.
        names = [e.name for e in self._entries.values() if e.module == entry.module]
        register = Register(entry, names)
        try:
            plugin = entry.point.load()
            self.manager.register(plugin, name=entry.module)
            others = [each for each in self.manager.get_plugins() if each is not plugin]
            self.manager.subset_hook_caller("tailrace_register", others)(register=register)
        except Exception as error:
            if self.manager.has_plugin(entry.module):
                self.manager.unregister(name=entry.module)
            return _unloadable(entry, error, None, "")
        self._offers.update({(offer.kind, offer.name): offer for offer in register.offers})
        return None

    def _unknown(self, kind: Kind | Literal["plugin"], name: str) -> ConfigError:
        kinds = self._kinds()
        if kind != "plugin" and name in kinds and kinds[name]:
            text = f"plugin {name!r} is no {kind}, but a {' and a '.join(kinds[name])}"
        else:
            text = f"there is no {kind} {name!r}"
        known = [each for each in kinds if kind == "plugin" or kind in kinds[each]]
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        listed = f"installed: {', '.join(known)}" if known else f"no {kind} is installed"
        return ConfigError(text, mend=f"{hint}{listed}")

    def _kinds(self) -> dict[str, list[Kind]]:
        """What each plugin that loads offers; loads them all, so it is for messages only."""
        kinds: dict[str, list[Kind]] = {}
        for entry in self.available():
            try:
                kinds[entry.name] = [offer.kind for offer in self.offers(entry.name)]
            except ConfigError:
                continue
        return kinds


def _installed() -> dict[str, Entry]:
    """Entry points by name. Of two that share a name ours wins, then the first on the path."""
    entries: dict[str, Entry] = {}
    for distribution in distributions():
        for point in _points(distribution):
            entry = Entry(point, distribution)
            held = entries.get(point.name)
            if held is None or (entry.ours and not held.ours):
                entries[point.name] = entry
    return entries


def _points(distribution: Distribution) -> list[EntryPoint]:
    try:
        return [point for point in distribution.entry_points if point.group == GROUP]
    except Exception:  # broken metadata of one distribution is no reason to lose the others
        return []


def _unloadable(entry: Entry, error: Exception, extra: str | None, kind: str) -> ConfigError:
    """Why a plugin cannot be used: a module that is not there, or a fault of its own."""
    own = entry.module.partition(".")[0]
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] not in (own, OURS):
        what = f"{kind}plugin {entry.name!r}"
        if isinstance(error, ModuleNotFoundError):
            text = f"{what} needs the module {error.name!r}, which is not installed"
        else:
            text = f"{what} cannot use its driver: {error}"
        return ConfigError(text, mend=entry.install(extra))
    fault = f"{type(error).__name__}: {error}"
    return ConfigError(
        f"{kind}plugin {entry.name!r} of {entry.origin} does not load: {fault}",
        mend=f"pip install --upgrade {entry.distribution}, or uninstall it",
    )
