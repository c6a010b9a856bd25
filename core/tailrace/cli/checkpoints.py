"""``cdc checkpoint show``: what pipelines have saved."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import click
from msgspec import to_builtins

from tailrace.checkpoint import Checkpoint, CheckpointStore, TableProgress
from tailrace.cli.loading import settings_of
from tailrace.cli.options import Given
from tailrace.config import PipelineConfig
from tailrace.errors import ConfigError
from tailrace.redact import mask
from tailrace.registry import Registry
from tailrace.resolve import default_name, find_store

_DEFAULT = str(PipelineConfig.model_fields["checkpoint"].default)
_FILES = ("sqlite", "file")
_MEND = "name the place that the pipeline uses: checkpoint=sqlite:PATH"


def show(given: Given, *, as_json: bool) -> None:
    """Print the checkpoints. Raises ConfigError if there is none where it was looked for."""
    registry = Registry()
    found: dict[str, Checkpoint] = {}
    for settings in settings_of(given):
        where = settings.get("checkpoint", _DEFAULT)
        offer, location = find_store(where, registry)
        if offer.name in _FILES and not os.path.exists(location):  # opening would make it
            raise ConfigError(f"checkpoint: there is nothing at {mask(where)}", mend=_MEND)
        store = offer.load()(location)
        found |= asyncio.run(_load(store, default_name(settings), mask(where)))
    if as_json:
        click.echo(json.dumps(to_builtins(found), indent=2))
        return
    click.echo("\n\n".join(_text(name, checkpoint) for name, checkpoint in found.items()))


async def _load(store: CheckpointStore, name: str, where: str) -> dict[str, Checkpoint]:
    async with store:
        names = [name] if name != "-" else await store.names()
        found = {each: await _one(store, each, where) for each in names}
    if not found:
        raise ConfigError(f"checkpoint: no pipeline has saved anything in {where}", mend=_MEND)
    return found


async def _one(store: CheckpointStore, name: str, where: str) -> Checkpoint:
    checkpoint = await store.load(name)
    if checkpoint is None:
        saved = ", ".join(await store.names()) or "none"
        raise ConfigError(
            f"name = {name!r}: this pipeline has saved nothing in {where}",
            mend=f"pipelines in it: {saved}",
        )
    return checkpoint


def _text(name: str, checkpoint: Checkpoint) -> str:
    fields: dict[str, Any] = {
        "pipeline": name,
        "position": checkpoint.position or "none yet",
        "source": checkpoint.source,
        "epoch": checkpoint.epoch,
    }
    fields |= {f"backfill {t}": _progress(p) for t, p in sorted(checkpoint.tables.items())}
    width = max(map(len, fields)) + 2
    return "\n".join(f"{label:<{width}}{value}" for label, value in fields.items())


def _progress(progress: TableProgress) -> str:
    if progress.done:
        return f"done, {progress.rows} rows"
    after = f" up to key ({', '.join(progress.after)})" if progress.after else ""
    return f"{progress.rows} rows{after}"
