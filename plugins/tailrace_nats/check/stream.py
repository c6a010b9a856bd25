"""What a stream's configuration and state mean for the pipeline. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from tailrace.connector import Finding
from tailrace_nats.config import NatsConfig
from tailrace_nats.settings import FAST_SINCE
from tailrace_nats.subjects import Subjects, covers, shapes, to_cover, with_added

SMALL = 1 << 20
"""The server's own limit for a message, unless it is set; rows larger than less are not rare."""

_FULL = 0.8


class Config(Struct, frozen=True):
    """JetStream's, as far as it matters here. -1 is no limit, durations are nanoseconds."""

    name: str
    subjects: Sequence[str] = ()
    storage: Literal["file", "memory"] = "file"
    retention: Literal["limits", "interest", "workqueue"] = "limits"
    discard: Literal["old", "new"] = "old"
    num_replicas: int = 1
    max_bytes: int = -1
    max_msgs: int = -1
    max_age: int = 0
    max_msg_size: int = -1
    max_msgs_per_subject: int = -1
    duplicate_window: int = 0
    allow_batched: bool = False
    sealed: bool = False
    no_ack: bool = False


class State(Struct, frozen=True):
    messages: int = 0
    bytes: int = 0
    consumer_count: int = 0


class Found(Struct, frozen=True):
    """A stream as it is."""

    config: Config
    state: State


def stream(
    found: Found, wanted: Subjects, keys: NatsConfig, version: tuple[int, int]
) -> list[Finding]:
    """All that there is to say of the stream."""
    config = found.config
    return [
        *_subjects(config, wanted),
        _storage(config),
        *_closed(config),
        *_retention(found),
        *_limits(found),
        *_sizes(config),
        _window(config, keys),
        *_batches(config, version),
    ]


def _edit(config: Config, flags: str) -> str:
    return f"nats stream edit {config.name} {flags}"


def _subjects(config: Config, wanted: Subjects) -> Iterator[Finding]:
    taken, missing = ", ".join(config.subjects), []
    for subject in wanted.templates:
        shape, _ = each = shapes(subject, wanted.name)
        if not any(covers(pattern, one) for pattern in config.subjects for one in each):
            missing.append(shape)
            text = f"{config.name} takes {taken}, not all of {shape}: another stops the pipeline"
            more = with_added(config.subjects, to_cover(subject, wanted.name) or shape)
            mend = _edit(config, f"--subjects '{','.join(more)}'")
            yield Finding("warning", "stream", text, mend)
    if not missing:
        yield Finding("ok", "stream", f"{config.name} takes {taken}")


def _storage(config: Config) -> Finding:
    copies = f"{config.num_replicas} copies" if config.num_replicas > 1 else "one copy"
    if config.storage == "memory":
        text = f"{copies} in memory: what was acknowledged is gone when its servers restart"
        mend = f"nats stream rm {config.name} -- the next start makes it with file storage"
        return Finding("warning", "storage", text, mend)
    text = f"{copies} in files; acknowledged before the disk has it, by default"
    hint = " (sync_interval of the server; it does not tell which it has)"
    return Finding("ok", "storage", text + hint)


def _closed(config: Config) -> Iterator[Finding]:
    if config.sealed:
        text = "sealed: it takes nothing any more"
        yield Finding("error", "sealed", text, "set another sink.stream: sealing is for good")
    if config.no_ack:
        text = "it acknowledges nothing, so nothing ever counts as delivered"
        yield Finding("error", "no_ack", text, _edit(config, "--ack"))


def _retention(found: Found) -> Iterator[Finding]:
    config = found.config
    if config.retention == "interest" and not found.state.consumer_count:
        text = "interest, and there is no consumer: every event is dropped as it comes"
        mend = f"nats consumer add {config.name}"
        yield Finding("warning", "retention", text, mend)
    if config.max_msgs_per_subject > 0:
        text = f"it keeps the last {config.max_msgs_per_subject} of each subject, so of each table"
        mend = _edit(config, "--max-msgs-per-subject=-1")
        yield Finding("warning", "retention", text, mend)


def _limits(found: Found) -> Iterator[Finding]:
    config, state = found.config, found.state
    drops = config.discard == "old"
    for name, limit, used in (
        ("max_bytes", config.max_bytes, state.bytes),
        ("max_msgs", config.max_msgs, state.messages),
    ):
        if limit <= 0:
            continue
        then = "then the oldest go" if drops else "then the pipeline waits"
        text = f"{limit:,}, {used / limit:.0%} used; {then}"
        if drops or used < _FULL * limit:
            yield Finding("ok", name, text)
            continue
        flag = name.replace("_", "-")
        yield Finding("warning", name, text, _edit(config, f"--{flag}={2 * limit}"))
    if config.max_age:
        yield Finding("ok", "max_age", f"{config.max_age / 1e9:,.0f} s, then an event goes")


def _sizes(config: Config) -> Iterator[Finding]:
    if 0 <= config.max_msg_size < SMALL:
        text = f"{config.max_msg_size:,} bytes: a larger event is refused, and stops the pipeline"
        yield Finding("warning", "max_msg_size", text, _edit(config, "--max-msg-size=-1"))


def _window(config: Config, keys: NatsConfig) -> Finding:
    window = config.duplicate_window / 1e9
    if keys.resume and config.retention == "limits":
        text = f"{window:,.0f} s; what is sent again later is left out, as it is read back first"
        return Finding("ok", "duplicate_window", text)
    text = f"{window:,.0f} s: what is sent again later than that is stored twice, under the same id"
    if window >= keys.dedupe_window:
        return Finding("ok", "duplicate_window", text)
    text += f" (sink.dedupe.window is {keys.dedupe_window:,.0f} s)"
    mend = _edit(config, f"--dupe-window={keys.dedupe_window:.0f}s")
    return Finding("warning", "duplicate_window", text, mend)


def _batches(config: Config, version: tuple[int, int]) -> Iterator[Finding]:
    if version >= FAST_SINCE and not config.allow_batched:
        text = "not allowed: slower, and a refused event may be overtaken by later ones"
        yield Finding("warning", "fast ingest", text, _edit(config, "--allow-fast"))
