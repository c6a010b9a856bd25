"""A stream's settings: what the configuration wants, what a stream has, what that means. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from tailrace.keys import as_text
from tailrace_nats.config import NatsConfig

FAST_SINCE = (2, 14)
ATOMIC_SINCE = (2, 12)

_NANO = 1_000_000_000
_WINDOW = "duplicate_window"


class Setting(Struct, frozen=True):
    """One setting of a stream.

    `key` is ours, `field` JetStream's. `edit` is the option of ``nats stream edit`` that makes it
    so; None for what cannot be changed. `given`: the user has set it.
    """

    key: str
    field: str
    value: Any
    edit: str | None
    given: bool


def settings(config: NatsConfig) -> list[Setting]:
    """What `config` makes of a stream."""
    age, window = config.max_age, config.dedupe_window
    if 0 < age < window:
        window = age  # the server refuses a longer one
    limit = int(config.max_bytes or -1)
    fast, atomic = config.allow_batched, config.atomic or config.allow_atomic
    made = [
        ("storage", "storage", config.storage, None),
        ("replicas", "num_replicas", config.replicas, f"--replicas={config.replicas}"),
        ("max_age", "max_age", round(age * _NANO), f"--max-age={_span(age)}"),
        ("max_bytes", "max_bytes", limit, f"--max-bytes={limit}"),
        ("dedupe_window", _WINDOW, round(window * _NANO), f"--dupe-window={_span(window)}"),
        ("allow_batched", "allow_batched", fast, _switch("allow-fast", on=fast)),
        ("allow_atomic", "allow_atomic", atomic, _switch("allow-batch", on=atomic)),
    ]
    return [
        Setting(_key(name), field, value, edit, config.sets(name))
        for name, field, value, edit in made
    ]


def to_make(config: NatsConfig, version: tuple[int, int]) -> dict[str, Any]:
    """The settings of a new stream on a server of that version."""
    made = {setting.field: setting.value for setting in settings(config)}
    for field, since in (("allow_batched", FAST_SINCE), ("allow_atomic", ATOMIC_SINCE)):
        if version < since:
            del made[field]
    return made


def drift(config: NatsConfig, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """For each setting that the user has given and the stream has otherwise: that, and the cure."""
    for setting in settings(config):
        has = found.get(setting.field) or type(setting.value)()
        if not setting.given or has == setting.value:
            continue
        name = found["name"]
        said = f"stream {name} has {setting.field}={_text(setting.field, has)}, not what"
        edit = f"nats stream edit {name} {setting.edit}"
        yield (
            f"{said} {setting.key}={_text(setting.field, setting.value)} says",
            "it cannot be changed: take another stream (sink.stream)" if not setting.edit else edit,
        )


def durability(found: Mapping[str, Any]) -> str:
    """How safe a message is that the stream has acknowledged, in one line."""
    window = _text(_WINDOW, found.get(_WINDOW) or 0)
    return (
        f"stream {found['name']}: an acknowledged event is {_place(found)}; "
        f"an event sent again within {window} is dropped"
    )


def _place(found: Mapping[str, Any]) -> str:
    replicas = found.get("num_replicas") or 1
    memory = found.get("storage") == "memory"
    if replicas > 1:
        kind = "in the memory" if memory else "in files"
        return f"{kind} of most of its {replicas} servers, and safe unless most of them fail"
    if memory:
        return "in the memory of one server, and gone when that ends"
    if found.get("persist_mode") == "async":
        return "in the memory of one server, which writes it to a file soon"
    return (
        "in a file of one server, and on its disk after the server's sync_interval "
        "(2m unless it is set there): safe from a crash of the server, not from a power cut"
    )


def _key(name: str) -> str:
    return f"sink.{NatsConfig.model_fields[name].alias or name}"


def _text(field: str, value: Any) -> str:
    if field in ("max_age", _WINDOW):
        return _span(value / _NANO)
    return as_text(value)


def _span(seconds: float) -> str:
    """A duration as both `cdc` and ``nats`` take it."""
    return as_text(float(seconds), duration=True)


def _switch(name: str, *, on: bool) -> str:
    return f"--{name}" if on else f"--no-{name}"
