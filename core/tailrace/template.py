"""Templates for subjects, topics, URLs and paths: ``cdc.{db}.{schema}.{table}``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from string import Formatter

from tailrace.schema import TableSchema

FIELDS = ("name", "db", "schema", "table", "op")


class Template:
    """Text with the fields {name} {db} {schema} {table} {op}; ``{{`` and ``}}`` are braces.

    `escape` is applied to each value, never to the text between. Where a table has no schema,
    ``{schema}`` is left out together with one separator beside it: ``cdc.{db}.{schema}.{table}``
    gives ``cdc.shop.orders``. Raises ValueError, saying what is wrong, for a bad text.
    Rendering is not cached; callers do that per table and op.
    """

    def __init__(self, text: str, escape: Callable[[str], str] = str) -> None:
        self.text = text
        self.escape = escape
        self.parts = _parse(text)

    @property
    def fields(self) -> frozenset[str]:
        """The fields that the text uses."""
        return frozenset(field for _, field in self.parts if field)

    @property
    def literals(self) -> tuple[str, ...]:
        """The text before, between and after the fields."""
        return tuple(literal for literal, _ in self.parts)

    def render(self, table: TableSchema, op: str, name: str) -> str:
        """The text for one table and op in pipeline `name`."""
        values = {"name": name, "db": table.db, "table": table.name, "op": op}
        escaped: dict[str, str | None] = {k: self.escape(v) for k, v in values.items()}
        schema = table.schema
        return self.fill({**escaped, "schema": None if schema is None else self.escape(schema)})

    def fill(self, values: Mapping[str, str | None]) -> str:
        """The text with `values` put in as they are; None leaves field and separator out."""
        text = ""
        drop_next = False
        for i, (literal, field) in enumerate(self.parts):
            text += literal[1:] if drop_next and _separated(literal) else literal
            drop_next = False
            if field is None:
                continue
            value = values[field]
            if value is not None:
                text += value
            elif not text:
                drop_next = True
            elif not text[-1].isalnum() and self._free_after(i):
                text = text[:-1]
        return text

    def _free_after(self, i: int) -> bool:
        following, field = self.parts[i + 1] if i + 1 < len(self.parts) else ("", None)
        return _separated(following) or (not following and field is None)

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def __str__(self) -> str:
        return self.text


def _separated(literal: str) -> bool:
    return literal[:1] != "" and not literal[0].isalnum()


def _parse(text: str) -> tuple[tuple[str, str | None], ...]:
    known = " ".join(f"{{{field}}}" for field in FIELDS)
    try:
        pieces = list(Formatter().parse(text))
    except ValueError:
        raise ValueError(f"a brace is not closed or not opened; the fields are {known}") from None
    parts: list[tuple[str, str | None]] = []
    literal = ""
    for before, field, spec, conversion in pieces:
        literal += before
        if field is None:
            continue
        if spec or conversion or field not in FIELDS:
            raise ValueError(f"unknown field {{{field}}}; the fields are {known}")
        parts.append((literal, field))
        literal = ""
    return (*parts, (literal, None)) if literal else tuple(parts)
