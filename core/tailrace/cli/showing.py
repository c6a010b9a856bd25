"""``cdc config show``: the effective settings, and where each comes from."""

from __future__ import annotations

import json

import click

from tailrace.cli.loading import resolved_of, settings_of
from tailrace.cli.options import Given
from tailrace.cli.tables import columns
from tailrace.keys import FAMILY, Key
from tailrace.redact import MASK, mask, mask_secret
from tailrace.registry import Registry
from tailrace.resolve import Resolved


def show(given: Given, *, as_json: bool) -> None:
    """Print every key of each pipeline. Raises ConfigError if the settings do not hold."""
    found = resolved_of(settings_of(given), Registry(), drivers=False)
    tables = {resolved.name: _rows(resolved) for resolved in found}
    if as_json:
        listed = {
            name: {key: {"value": value, "origin": origin} for key, value, origin in rows}
            for name, rows in tables.items()
        }
        click.echo(json.dumps(listed, indent=2))
        return
    texts = [
        f"[{name}]\n" + columns(("key", "value", "from"), rows) for name, rows in tables.items()
    ]
    click.echo("\n\n".join(texts))


def _rows(resolved: Resolved) -> list[tuple[str, str, str]]:
    rows = []
    for key in resolved.keys:
        family = key.name.endswith(FAMILY)
        names = [n for n in resolved.settings if key.covers(n)] if family else [key.name]
        rows += [(name, *_shown(name, key, resolved)) for name in names]
    return rows


def _shown(name: str, key: Key, resolved: Resolved) -> tuple[str, str]:
    entry = resolved.settings.entries.get(name)
    if entry is None:
        default = resolved.name if name == "name" else key.default or ""
        return default, "default"
    if entry.raw != entry.value:
        # What a reference stands for may be a secret wherever it is used: show the reference.
        return mask(entry.raw), entry.origin
    if key.secret:
        return mask_secret(entry.value) if entry.value else MASK, entry.origin
    return mask(entry.value), entry.origin
