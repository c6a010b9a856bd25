"""What a table looks like at one place in the log: its columns, their types and its key."""

from __future__ import annotations

import hashlib

from msgspec import Struct


class Column(Struct, frozen=True):
    """A column: its name, logical type and the database's own type name.

    Logical types: bool, int8-int64, uint8-uint64, float32, float64, decimal(p,s), decimal,
    string, bytes, date, time, timestamp (no zone), timestamptz, interval, uuid, json, enum, set,
    array(<type>), bit, geometry, other (text as the database prints it).
    """

    name: str
    type: str
    db_type: str


class TableSchema(Struct, frozen=True):
    """A table as the log describes it from some place on; another shape is another object.

    `schema` is None where the database has nothing between database and table. `key` names the
    columns that identify a row (primary key, or what the log uses instead); empty without one.
    Sources hand out the same object for as long as the shape holds, so it can be compared with
    ``is`` and used as a key of caches.
    """

    db: str
    schema: str | None
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()

    @property
    def path(self) -> tuple[str, ...]:
        """The name's parts below the database: (schema, table) or (table,)."""
        return (self.name,) if self.schema is None else (self.schema, self.name)

    @property
    def label(self) -> str:
        """The name a person reads and ``source.tables`` matches: ``schema.table``."""
        return ".".join(self.path) if self.schema is not None else f"{self.db}.{self.name}"

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change whenever a column, a type or the key does."""
        parts = [f"{c.name}\0{c.type}\0{c.db_type}" for c in self.columns]
        text = "\1".join([*self.path, *parts, "\2", *self.key])
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
