"""Configuration models. How settings are read and merged is in `settings`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(value: object) -> float:
    text = str(value).strip()
    number = text.rstrip("mshd")
    unit = text[len(number) :] or "s"
    try:
        seconds = float(number) * _UNITS[unit]
    except (KeyError, ValueError):
        raise ValueError("not a duration; write 10s, 500ms, 2m or 1h") from None
    if not 0 <= seconds < float("inf"):
        raise ValueError("not a duration of zero or more")
    return seconds


def _names(value: object) -> object:
    if isinstance(value, str):
        return tuple(part for raw in value.split(",") if (part := raw.strip()))
    return value


Duration = Annotated[float, BeforeValidator(_seconds)]
"""Seconds, written ``10s``, ``500ms``, ``2m``; a bare number is seconds."""

Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
"""A comma-separated list."""


class PluginConfig(BaseModel):
    """Base of every plugin's configuration: frozen, unknown keys refused, keys by their alias.

    A field's key is its alias if it has one (``Field(alias="batch.events")``), else its name.
    An alias that ends with ``.*`` is a family of keys: the field is a ``dict[str, …]`` of what
    stands in the star's place, which may have dots. ``description`` is what ``cdc describe`` and
    the docs print. A secret is a
    ``pydantic.SecretStr``. Text from the command line is converted by the field's type.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True
    )


class PipelineConfig(PluginConfig):
    """The keys that belong to the pipeline itself."""

    name: str = Field(
        "",
        description="The pipeline; its checkpoint and its slot are called after it",
        pattern=r"^[A-Za-z0-9_.-]{0,100}$",
        json_schema_extra={"default_text": "<source>-<sink>"},
    )
    source: str = Field(description="Source plugin")
    sink: str = Field(description="Sink plugin")
    snapshot: Literal["initial", "never", "only"] = Field(
        "initial",
        description="Deliver the rows that are there before the first change: initial, never, "
        "or only them",
    )
    snapshot_tables: Names = Field(
        ("*.*",),
        alias="snapshot.tables",
        description="Of which tables the rows that are there are delivered: schema.table patterns"
        " with *, comma-separated; ! before one excludes",
        json_schema_extra={"default_text": "all that are captured"},
    )
    snapshot_where: dict[str, str] = Field(
        {},
        alias="snapshot.where.*",
        description="Only the rows of the table (schema.table) that fulfil this condition, in the"
        " database's own SQL",
    )
    snapshot_chunk: int = Field(
        20_000, alias="snapshot.chunk", gt=0, description="Rows read at a time by the backfill"
    )
    format: str = Field("json", description="Shape of an event on the wire")
    checkpoint: str = Field("sqlite:cdc.db", description="Where the position is kept")
    on_error: Literal["stop"] = Field(
        "stop", description="What becomes of an event that the sink refuses"
    )
    on_lost: Literal["fail", "resnapshot"] = Field(
        "fail",
        description="What to do when the saved position is gone: fail, or resnapshot: begin anew"
        " and deliver all rows again",
    )
    batch_events: int = Field(
        10_000,
        alias="batch.events",
        gt=0,
        description="Events in flight to the sink at most, and so delivered again after a crash",
    )
    batch_bytes: ByteSize = Field(
        ByteSize(8 << 20), alias="batch.bytes", gt=0, description="The same, in bytes of payload"
    )
    memory: ByteSize = Field(
        ByteSize(64 << 20), gt=0, description="Payload that may be in flight at most"
    )
    grace: Duration = Field(
        10.0, description="How long SIGTERM waits for what was read to be delivered"
    )
