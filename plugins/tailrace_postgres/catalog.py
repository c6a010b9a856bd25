"""What the database's catalog says of types, and so how rows of a relation are decoded."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from psycopg import AsyncConnection, sql

from tailrace.schema import Column, TableSchema
from tailrace_postgres.decoder import Decoder
from tailrace_postgres.pgoutput import Relation
from tailrace_postgres.types import ENUM, EXTENSIONS, OTHER, Kind, array_kind, scalar_kind

FIRST_USER_OID = 16_384

IN_FULL = sql.SQL("(SELECT pg_catalog.set_config('search_path', '', true)) = ''")
"""A condition that is true. Evaluated before the first row, it has names print in full until the
transaction ends, though the query was read with the role's own search path."""


async def fetch(
    connection: AsyncConnection[Any], query: sql.SQL | sql.Composed, *values: Any
) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query, values or None)).fetchall()


async def is_standby(connection: AsyncConnection[Any]) -> bool:
    [(standby,)] = await fetch(connection, sql.SQL("SELECT pg_is_in_recovery()"))
    return bool(standby)


class _Type(Struct, frozen=True):
    """A row of pg_type. `element` is 0 for what is not printed as an array."""

    name: str
    typtype: str
    base: int
    typmod: int
    element: int
    delimiter: str


_GONE = _Type("", "b", 0, -1, 0, ",")
"""A type that was dropped since: its text is all there is."""

_TYPES = """
SELECT oid::bigint, typname::text, typtype::text, typbasetype::bigint, typtypmod,
       CASE typoutput WHEN 'pg_catalog.array_out'::regproc THEN typelem::bigint ELSE 0 END,
       typdelim::text
FROM pg_type WHERE oid = ANY(%s)
"""


class Types:
    """Kinds of column types by OID; the catalog is asked once for each."""

    def __init__(self) -> None:
        self._known: dict[int, _Type] = {0: _GONE}

    async def learn(self, connection: AsyncConnection[Any], oids: set[int]) -> None:
        """Make sure that `kind` can answer for `oids` and for what they are made of."""
        while unknown := oids - self._known.keys():
            rows = await fetch(connection, sql.SQL(_TYPES), list(unknown))
            self._known.update(dict.fromkeys(unknown, _GONE))
            self._known.update({oid: _Type(*rest) for oid, *rest in rows})
            described = [self._known[oid] for oid in unknown]
            oids = {part for row in described for part in (row.base, row.element)}

    def kind(self, oid: int, typmod: int) -> Kind:
        row = self._known[oid]
        if row.typtype == "d":
            return self.kind(row.base, row.typmod)
        if row.element:
            return array_kind(self.kind(row.element, typmod), self._known[row.element].delimiter)
        if row.typtype == "e":
            return ENUM
        if oid < FIRST_USER_OID:
            return scalar_kind(row.name, typmod)
        return EXTENSIONS.get(row.name, OTHER)


async def decoder_for(
    connection: AsyncConnection[Any],
    types: Types,
    db: str,
    relation: Relation,
    key: tuple[str, ...],
) -> Decoder:
    """A decoder for rows of `relation`, which may be gone, and its types with it."""
    await types.learn(connection, {column.oid for column in relation.columns})
    kinds = [types.kind(column.oid, column.typmod) for column in relation.columns]
    names = await _type_names(connection, relation)
    columns = tuple(
        Column(column.name, kind.logical, name)
        for column, kind, name in zip(relation.columns, kinds, names, strict=True)
    )
    return Decoder(TableSchema(db, relation.schema, relation.name, columns, key), kinds)


async def _type_names(connection: AsyncConnection[Any], relation: Relation) -> list[str]:
    rows = await fetch(
        connection,
        sql.SQL(
            "SELECT format_type(o::oid, m) FROM unnest(%s::bigint[], %s::int[])"
            " WITH ORDINALITY u(o, m, n) WHERE {} ORDER BY n"
        ).format(IN_FULL),
        [column.oid for column in relation.columns],
        [column.typmod for column in relation.columns],
    )
    return [name for (name,) in rows]


async def sender_timeout(connection: AsyncConnection[Any]) -> float:
    """The server's wal_sender_timeout in seconds; 0 for none."""
    query = "SELECT setting::float8 / 1000 FROM pg_settings WHERE name = %s"
    [(setting,)] = await fetch(connection, sql.SQL(query), "wal_sender_timeout")
    return float(setting)
