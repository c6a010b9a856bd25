"""``cdc backfill``: leave a request in the checkpoint store, for a pipeline that runs or will."""

from __future__ import annotations

import asyncio
import uuid
from difflib import get_close_matches

import click

from tailrace.checkpoint import BackfillRequest, CheckpointStore, TableProgress
from tailrace.cli.loading import load
from tailrace.cli.options import Given, Options
from tailrace.connector import BackfillSource, TableStatus
from tailrace.errors import ConfigError
from tailrace.resolve import Resolved

_LOOK = 0.5


def backfill(given: Given, options: Options, *, table: str, where: str | None, wait: bool) -> int:
    """Ask for it; with `wait` return once every row is delivered. Raises ConfigError."""
    pipelines = load(given, options).pipelines
    if len(pipelines) > 1:
        names = ", ".join(each.name for each in pipelines)
        raise ConfigError(f"which pipeline? There are {names}", mend="name it with --pipeline")
    asyncio.run(_ask(pipelines[0], table, where, wait))
    return 0


async def _ask(resolved: Resolved, table: str, where: str | None, wait: bool) -> None:
    rows = await _rows(resolved, table, where)
    store: CheckpointStore = resolved.store.load()(resolved.location)
    request = BackfillRequest(uuid.uuid4().hex, table, where)
    async with store:
        if await store.load(resolved.name) is None:
            raise ConfigError(
                f"pipeline {resolved.name!r} has saved nothing yet: its first start reads the rows",
                mend="start it; or name the place where its checkpoint is: checkpoint=sqlite:PATH",
            )
        await store.ask(resolved.name, request)
        click.echo(
            f"asked pipeline {resolved.name} to read {table} (about {rows:,} rows): one that runs"
            " begins within a few seconds, one that does not at its next start"
        )
        if wait:
            await _watch(store, resolved.name, request)


async def _rows(resolved: Resolved, table: str, where: str | None) -> int:
    """About how many it will be; makes sure that the table is there and the condition is one."""
    source = resolved.source.offer.load()(resolved.source.config, resolved.setup)
    if not isinstance(source, BackfillSource):
        raise ConfigError(
            f"source={resolved.source.offer.name} has no backfill", mend="there is nothing to mend"
        )
    async with source:
        found = {status.table.label: status for status in await source.tables()}
        if table not in found:
            raise _unknown(table, found)
        return await source.estimate(found[table].table, where) if where else found[table].rows


def _unknown(table: str, found: dict[str, TableStatus]) -> ConfigError:
    close = get_close_matches(table, found, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    listed = ", ".join(list(found)[:10]) or "none"
    return ConfigError(
        f"table {table!r} is not captured by this pipeline", mend=f"{hint}captured: {listed}"
    )


async def _watch(store: CheckpointStore, name: str, request: BackfillRequest) -> None:
    said = -1
    while True:
        checkpoint = await store.load(name)
        progress = checkpoint.tables.get(request.table) if checkpoint else None
        if progress and progress.request == request.id:
            if progress.rows != said:
                said = progress.rows
                click.echo(_text(request.table, progress))
            if progress.done:
                return
        await asyncio.sleep(_LOOK)


def _text(table: str, progress: TableProgress) -> str:
    return f"{table}: {progress.rows:,} rows{', done' if progress.done else ''}"
