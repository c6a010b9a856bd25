"""Keys: what a configuration model offers, as a person reads it in ``describe`` and the docs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from msgspec import Struct
from pydantic import ByteSize, SecretStr
from pydantic.fields import FieldInfo

from tailrace.config import Duration, Names, PluginConfig

_DURATION = get_args(Duration)[1]
_NAMES = get_args(Names)[1]
_WORDS: dict[object, str] = {
    bool: "true | false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    ByteSize: "size",
    SecretStr: "text",
}


FAMILY = ".*"
"""How the name of a family of keys ends: ``snapshot.where.*``."""


class Key(Struct, frozen=True):
    """One setting. `name` is the full key; `default` is None for a key that must be given."""

    name: str
    type: str
    default: str | None
    secret: bool
    description: str

    @property
    def required(self) -> bool:
        return self.default is None

    def covers(self, name: str) -> bool:
        """Whether a setting called `name` is this key, or one of this family."""
        stem = self.name.removesuffix("*")
        return name == self.name or (stem != self.name and name.startswith(stem) and name != stem)


def keys_of(model: type[PluginConfig], prefix: str = "") -> list[Key]:
    """The model's keys in their order, each behind `prefix` (``source.``)."""
    return [
        _key(prefix + (field.alias or name), field) for name, field in model.model_fields.items()
    ]


def _key(name: str, field: FieldInfo) -> Key:
    annotation: Any = field.annotation
    if field.metadata:
        annotation = Annotated[(annotation, *field.metadata)]
    return Key(
        name=name,
        type=_type(annotation),
        default=None if field.is_required() else _default(field, annotation),
        secret=_holds(annotation, SecretStr),
        description=field.description or "",
    )


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return _type(parts[1])
    if origin is Annotated:
        if _DURATION in parts:
            return "duration"
        return "list" if _NAMES in parts else _type(parts[0])
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " | ".join(_type(part) for part in parts if part is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(str(member.value) for member in annotation)
    return _WORDS.get(annotation, "list" if origin in (tuple, list) else "text")


def _holds(annotation: Any, wanted: object) -> bool:
    return annotation is wanted or any(_holds(part, wanted) for part in get_args(annotation))


def _default(field: FieldInfo, annotation: Any) -> str:
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "default_text" in extra:
        return str(extra["default_text"])
    if _holds(annotation, SecretStr):
        return ""
    return as_text(
        field.get_default(call_default_factory=True), duration=_holds_duration(annotation)
    )


def _holds_duration(annotation: Any) -> bool:
    return _DURATION in get_args(annotation) or any(map(_holds_duration, get_args(annotation)))


def as_text(value: object, *, duration: bool = False) -> str:
    """A default as a user would write it; empty for none."""
    match value:
        case None | dict():
            return ""
        case bool():
            return str(value).lower()
        case ByteSize():
            return value.human_readable(separator="").removesuffix(".0B").replace(".0", "")
        case Enum():
            return str(value.value)
        case float() if duration:
            return _duration(value)
        case list() | tuple():
            return ",".join(map(as_text, value))
    return str(value)


def _duration(seconds: float) -> str:
    if seconds and seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"
