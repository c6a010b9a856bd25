"""``cdc checkpoint``: what pipelines have saved, shown, replaced and forgotten."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import click
from msgspec import to_builtins
from msgspec.structs import replace

from tailrace.assembly import build
from tailrace.checkpoint import Checkpoint, CheckpointStore, TableProgress
from tailrace.cli.loading import settings_of
from tailrace.cli.options import Given
from tailrace.config import PipelineConfig
from tailrace.errors import ConfigError
from tailrace.event import Position
from tailrace.redact import mask
from tailrace.registry import Registry
from tailrace.resolve import default_name, find_store, resolve
from tailrace.settings import Settings

_DEFAULT = str(PipelineConfig.model_fields["checkpoint"].default)
_MEND = "name the place that the pipeline uses: checkpoint=sqlite:PATH"
_FENCED = "an instance that is running stops at its next save"
_NAMELESS = "-"  # what a pipeline is called of which neither name nor ends are given


class _Place:
    """Where the settings of one pipeline keep its checkpoint."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        address = settings.get("checkpoint", _DEFAULT)
        offer, location = find_store(address, registry)
        self.name = default_name(settings)
        self.where = mask(address)
        self.store: CheckpointStore = offer.load()(location)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[CheckpointStore]:
        """The store. Raises ConfigError where opening it would make it."""
        if not await self.store.made():
            raise ConfigError(f"checkpoint: there is nothing at {self.where}", mend=_MEND)
        async with self.store:
            yield self.store

    async def load(self, name: str) -> Checkpoint:
        """The pipeline's checkpoint, from the open store. Raises ConfigError if there is none."""
        checkpoint = await self.store.load(name)
        if checkpoint is None:
            saved = ", ".join(await self.store.names()) or "none"
            raise ConfigError(
                f"name = {name!r}: this pipeline has saved nothing in {self.where}",
                mend=f"pipelines in it: {saved}",
            )
        return checkpoint


def show(given: Given, *, as_json: bool) -> None:
    """Print the checkpoints. Raises ConfigError if there is none where it was looked for."""
    registry = Registry()
    found: dict[str, Checkpoint] = {}
    for settings in settings_of(given):
        found |= asyncio.run(_load(_Place(settings, registry)))
    if as_json:
        click.echo(json.dumps(to_builtins(found), indent=2))
        return
    click.echo("\n\n".join(_text(name, checkpoint) for name, checkpoint in found.items()))


async def _load(place: _Place) -> dict[str, Checkpoint]:
    async with place.opened() as store:
        names = [place.name] if place.name != _NAMELESS else await store.names()
        found = {name: await place.load(name) for name in names}
    if not found:
        raise ConfigError(
            f"checkpoint: no pipeline has saved anything in {place.where}", mend=_MEND
        )
    return found


def move(given: Given, position: str) -> None:
    """Have the pipeline go on from `position`.

    Raises ConfigError if the position is empty or the pipeline has saved nothing, CheckpointError
    if the settings name a source that cannot read the position.
    """
    registry = Registry()
    settings = _one(settings_of(given))
    if not position.strip():
        raise ConfigError("the position is empty", mend="cdc checkpoint show shows the present one")
    if {"source", "sink"} <= settings.keys():
        source = build(resolve(settings, registry)).source
        source.passed(Position(position), Position(position))  # it reads them
    place = _Place(settings, registry)
    old, new = asyncio.run(_move(place, Position(position)))
    click.echo(
        f"{place.name}: position {new.position} instead of {old.position or 'none'}, epoch"
        f" {new.epoch}; {_FENCED}"
    )


async def _move(place: _Place, position: Position) -> tuple[Checkpoint, Checkpoint]:
    async with place.opened() as store:
        old = await place.load(place.name)
        return old, await store.claim(place.name, replace(old, position=position))


def delete(given: Given, *, yes: bool) -> None:
    """Forget the pipeline's checkpoint and requests, also what cannot be read. Asks, unless `yes`.

    Raises ConfigError if it would ask and there is no terminal.
    """
    place = _Place(_one(settings_of(given)), Registry())
    if not yes:
        _confirm(f"Forget where {place.name} is, in {place.where}?")
    asyncio.run(_delete(place))
    click.echo(f"{place.name}: the checkpoint in {place.where} is deleted; {_FENCED}")


async def _delete(place: _Place) -> None:
    async with place.opened() as store:
        await store.delete(place.name)


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigError("nobody is here to confirm the deletion", mend="say so with --yes")
    click.confirm(question, abort=True)


def _one(settings: Sequence[Settings]) -> Settings:
    """The settings, if they are those of one pipeline with a name."""
    if len(settings) != 1 or default_name(settings[0]) == _NAMELESS:
        raise ConfigError(
            "this is done to one pipeline at a time",
            mend="name it: name=NAME, or --pipeline NAME of the file",
        )
    return settings[0]


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
