"""Subjects: how names are escaped, which templates are legal, what a stream must cover.

Pure text. A name from a database becomes exactly one part of a subject token, whatever is in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote_to_bytes

from tailrace.schema import TableSchema
from tailrace.template import Template

LONGEST = 2_000
"""Characters in a subject at most; the server reads protocol lines of 4,096 bytes."""

_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
_ILLEGAL = re.compile(r"[^!-~]|[*>]")
_EMPTY = "%"


def escape(name: str) -> str:
    """`name` as part of a subject token: all but letters, digits, _ and - as %XX of its UTF-8.

    The empty name is a lone ``%``, as a token must not be empty. `unescape` is the inverse.
    """
    data = name.encode("utf-8", "surrogatepass")
    return _UNSAFE.sub(lambda m: b"%%%02X" % m[0][0], data).decode() or _EMPTY


def unescape(part: str) -> str:
    """The name that `escape` was given."""
    if part == _EMPTY:
        return ""
    return unquote_to_bytes(part).decode("utf-8", "surrogatepass")


def template(text: str) -> Template:
    """The subject template `text`; ValueError says what is wrong with it."""
    parsed = Template(text, escape)
    if any(_ILLEGAL.search(literal) for literal in parsed.literals):
        raise ValueError("a subject has no spaces, wildcards, control or non-ASCII characters")
    if not all(all(shape.split(".")) for shape in shapes(parsed, "x")):
        raise ValueError("a subject has no empty parts: check the dots")
    return parsed


def shapes(subject: Template, name: str) -> tuple[str, str]:
    """The subjects that `subject` gives in pipeline `name`, with ``*`` for what varies.

    First for tables with a schema, then for those without.
    """
    values: dict[str, str | None] = dict.fromkeys(("db", "schema", "table", "op"), "*")
    values["name"] = escape(name)
    return _shape(subject.fill(values)), _shape(subject.fill({**values, "schema": None}))


def _shape(text: str) -> str:
    return ".".join("*" if "*" in token else token for token in text.split("."))


def to_cover(subject: Template, name: str) -> str | None:
    """What a new stream listens to; None if the first token varies."""
    shape = shapes(subject, name)[0]
    fixed = shape.partition("*")[0]
    if fixed == shape:
        return shape
    return f"{fixed}>" if fixed else None


class Subjects:
    """Where the events of pipeline `name` go: a template for all tables, others for single ones.

    `tables` maps a table's label (``schema.table``) to the text of its template.
    """

    def __init__(self, text: str, tables: Mapping[str, str], name: str) -> None:
        self.name = name
        self._template = template(text)
        self._tables = {label: template(own) for label, own in tables.items()}

    def of(self, table: TableSchema, op: str) -> str:
        """The subject of an event."""
        return self._tables.get(table.label, self._template).render(table, op, self.name)

    @property
    def templates(self) -> Iterable[Template]:
        """All of them."""
        return self.keys.values()

    @property
    def keys(self) -> dict[str, Template]:
        """The templates by the keys that they were given under."""
        own = {f"sink.subjects.{label}": subject for label, subject in self._tables.items()}
        return {"sink.subject": self._template, **own}

    @property
    def shapes(self) -> list[str]:
        """The subjects of all templates, without those that another takes in."""
        return _widest(shape for each in self.templates for shape in shapes(each, self.name))

    @property
    def to_cover(self) -> list[str] | None:
        """What a new stream listens to; None if the first token of a template varies."""
        covered = [to_cover(subject, self.name) for subject in self.templates]
        return None if None in covered else _widest(filter(None, covered))


def _widest(patterns: Iterable[str]) -> list[str]:
    found: list[str] = []
    for pattern in patterns:
        if not any(covers(other, pattern) for other in found):
            found = [other for other in found if not covers(pattern, other)] + [pattern]
    return found


def overlap(one: str, other: str) -> bool:
    """Whether a subject can match both patterns."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(left) == len(right)


def covers(pattern: str, shape: str) -> bool:
    """Whether `pattern` matches every subject that `shape` does."""
    left, right = pattern.split("."), shape.split(".")
    for a, b in zip(left, right, strict=False):
        if a == ">":
            return True
        if a not in ("*", b) or b == ">":
            return False
    return len(left) == len(right)


def with_added(taken: Sequence[str], more: str) -> list[str]:
    """The subjects of a stream that is to take `more` too; they must not overlap."""
    return [*(pattern for pattern in taken if not covers(more, pattern)), more]


def stream_name(pipeline: str) -> str:
    """The pipeline's name with _ for what a stream's name cannot hold."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", pipeline) or "cdc"
