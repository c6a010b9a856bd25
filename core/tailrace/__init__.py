"""Tailrace: change data capture. Here are the public names; each is imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailrace.checkpoint import BackfillRequest, Checkpoint, CheckpointStore, TableProgress
    from tailrace.config import Duration, Names, PipelineConfig, PluginConfig
    from tailrace.connector import (
        BackfillSource,
        Chunk,
        Connector,
        Finding,
        Setup,
        Sink,
        Source,
        TableStatus,
    )
    from tailrace.errors import (
        CheckpointError,
        ConfigError,
        FencedError,
        PermanentError,
        PositionLostError,
        RejectedError,
        TailraceError,
        TransientError,
    )
    from tailrace.event import Batch, Event, Position, Transaction
    from tailrace.formats import Format, Message
    from tailrace.hookspecs import hookimpl
    from tailrace.pipeline import Pipeline
    from tailrace.registry import Register, Registry
    from tailrace.row import Change, Images, Row
    from tailrace.schema import Column, TableSchema
    from tailrace.values import Json

_ROOMS = {
    "checkpoint": ("BackfillRequest", "Checkpoint", "CheckpointStore", "TableProgress"),
    "config": ("Duration", "Names", "PipelineConfig", "PluginConfig"),
    "connector": (
        "BackfillSource",
        "Chunk",
        "Connector",
        "Finding",
        "Setup",
        "Sink",
        "Source",
        "TableStatus",
    ),
    "errors": (
        "CheckpointError",
        "ConfigError",
        "FencedError",
        "PermanentError",
        "PositionLostError",
        "RejectedError",
        "TailraceError",
        "TransientError",
    ),
    "event": ("Batch", "Event", "Position", "Transaction"),
    "formats": ("Format", "Message"),
    "hookspecs": ("hookimpl",),
    "pipeline": ("Pipeline",),
    "registry": ("Register", "Registry"),
    "row": ("Change", "Images", "Row"),
    "schema": ("Column", "TableSchema"),
    "values": ("Json",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "BackfillRequest",
    "BackfillSource",
    "Batch",
    "Change",
    "Checkpoint",
    "CheckpointError",
    "CheckpointStore",
    "Chunk",
    "Column",
    "ConfigError",
    "Connector",
    "Duration",
    "Event",
    "FencedError",
    "Finding",
    "Format",
    "Images",
    "Json",
    "Message",
    "Names",
    "PermanentError",
    "Pipeline",
    "PipelineConfig",
    "PluginConfig",
    "Position",
    "PositionLostError",
    "Register",
    "Registry",
    "RejectedError",
    "Row",
    "Setup",
    "Sink",
    "Source",
    "TableProgress",
    "TableSchema",
    "TableStatus",
    "TailraceError",
    "Transaction",
    "TransientError",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOM_OF})
