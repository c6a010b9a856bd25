"""``cdc plugins`` and ``cdc describe``: what is installed, and the keys that it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import click
from msgspec import to_builtins

from tailrace.cli.tables import columns
from tailrace.errors import ConfigError
from tailrace.keys import Key, keys_of
from tailrace.registry import Entry, Offer, Registry

HEAD = ("key", "type", "default", "meaning")


def plugins(*, as_json: bool) -> None:
    """Every installed plugin; one that does not load is listed with the reason."""
    registry = Registry()
    found = [_plugin(registry, entry) for entry in registry.available()]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = [
        (p["name"], ", ".join(p["kinds"]) or "-", p["distribution"], p["version"], p["problem"])
        for p in found
    ]
    click.echo(columns(("plugin", "kinds", "distribution", "version", ""), rows))


def _plugin(registry: Registry, entry: Entry) -> dict[str, Any]:
    kinds: list[str] = []
    problems: list[str] = []
    try:
        offers = registry.offers(entry.name)
    except ConfigError as error:
        offers, problems = [], [f"does not load: {error.message} ({error.mend})"]
    for offer in offers:
        kinds.append(offer.kind)
        problems += _unusable(offer)
    return {
        "name": entry.name,
        "kinds": kinds,
        "distribution": entry.distribution,
        "version": entry.version,
        "module": entry.module,
        "problem": "; ".join(problems),
    }


def _unusable(offer: Offer) -> Iterator[str]:
    try:
        offer.load()
    except ConfigError as error:
        yield f"{error.message} ({error.mend})"


def describe(name: str, *, as_json: bool) -> None:
    """The keys of everything that the plugin offers. Raises ConfigError if there is none."""
    offers = Registry().offers(name)
    if as_json:
        described = [_described(offer) for offer in offers]
        click.echo(json.dumps(described, indent=2))
        return
    click.echo("\n\n".join(_text(offer) for offer in offers))


def keys(offer: Offer) -> list[Key]:
    """The keys of an offer, with their full names; a store has none."""
    return [] if offer.kind == "store" else keys_of(offer.config, f"{offer.kind}.")


def use(offer: Offer) -> str:
    """How a pipeline asks for it: ``source=postgres``."""
    return f"checkpoint={offer.name}:…" if offer.kind == "store" else f"{offer.kind}={offer.name}"


def _described(offer: Offer) -> dict[str, Any]:
    listed = [to_builtins(key) | {"required": key.required} for key in keys(offer)]
    return {"kind": offer.kind, "name": offer.name, "use": use(offer), "keys": listed}


def _text(offer: Offer) -> str:
    title = f"{offer.kind} {offer.name} ({offer.entry.origin}): {use(offer)}"
    listed = keys(offer)
    return f"{title}\n\n" + (columns(HEAD, rows(listed)) if listed else "no keys of its own")


def rows(listed: Sequence[Key]) -> list[tuple[str, str, str, str]]:
    """A line for each key, under HEAD."""
    return [(key.name, _type(key), _default(key), key.description) for key in listed]


def _type(key: Key) -> str:
    return f"{key.type}, secret" if key.secret else key.type


def _default(key: Key) -> str:
    return "required" if key.default is None else key.default or "none"
