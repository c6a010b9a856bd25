"""What the database's catalog says: tables, keys, types, publication and slot."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from psycopg import AsyncConnection, sql

from tailrace.patterns import Patterns
from tailrace.schema import Column, TableSchema
from tailrace_postgres.decoder import Decoder
from tailrace_postgres.pgoutput import Relation, RelationColumn
from tailrace_postgres.types import ENUM, EXTENSIONS, OTHER, Kind, array_kind, scalar_kind

FIRST_USER_OID = 16_384

IN_FULL = sql.SQL("(SELECT pg_catalog.set_config('search_path', '', true)) = ''")
"""A condition that is true. Evaluated before the first row, it has names print in full until the
transaction ends, though the query was read with the role's own search path."""


class Table(Struct, frozen=True):
    """A captured table as the catalog has it now. `rows` is the planner's estimate."""

    relation: Relation
    primary_key: tuple[str, ...]
    rows: int

    @property
    def label(self) -> str:
        return f"{self.relation.schema}.{self.relation.name}"


class Slot(Struct, frozen=True):
    """A row of pg_replication_slots; LSNs as numbers are the reader's business."""

    plugin: str
    database: str
    confirmed: str | None
    active_pid: int | None
    wal_status: str | None
    temporary: bool


_TABLES = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relreplident, c.reltuples::bigint,
       coalesce((SELECT array_agg(a.attname::text ORDER BY k.ord)
                 FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, ord)
                 JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
                 WHERE i.indrelid = c.oid AND i.indisprimary AND k.ord <= i.indnkeyatts), '{}'),
       coalesce((SELECT array_agg(a.attname::text)
                 FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, ord)
                 JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
                 WHERE i.indrelid = c.oid AND i.indisreplident AND k.ord <= i.indnkeyatts), '{}'),
       (SELECT array_agg(ARRAY[a.attname::text, a.atttypid::text, a.atttypmod::text]
                         ORDER BY a.attnum)
        FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              AND a.attgenerated = '')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast'
"""


async def fetch(
    connection: AsyncConnection[Any], query: sql.SQL | sql.Composed, *values: Any
) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query, values or None)).fetchall()


async def user_tables(connection: AsyncConnection[Any], patterns: Patterns) -> list[Table]:
    """The ordinary tables that match, by name."""
    rows = await fetch(connection, sql.SQL(_TABLES + " ORDER BY 2, 3"))
    tables = [_table(*row) for row in rows if row[7]]
    return [table for table in tables if patterns.matches(table.label)]


async def one_table(connection: AsyncConnection[Any], schema: str, name: str) -> Table | None:
    """The table as it is now; None if it is gone."""
    where = " AND n.nspname = %s AND c.relname = %s"
    rows = await fetch(connection, sql.SQL(_TABLES + where), schema, name)
    return _table(*rows[0]) if rows and rows[0][7] else None


def _table(
    oid: int,
    schema: str,
    name: str,
    identity: str,
    rows: int,
    primary: list[str],
    index: list[str],
    columns: list[list[str]],
) -> Table:
    marked = {"d": primary, "i": index, "f": [c[0] for c in columns]}.get(identity, [])
    described = tuple(
        RelationColumn(column, int(oid), int(typmod), column in marked)
        for column, oid, typmod in columns
    )
    relation = Relation(oid, schema, name, identity, described)
    return Table(relation, tuple(primary), max(0, rows))


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
    primary_key: tuple[str, ...] | None = None,
) -> Decoder:
    """A decoder for rows of `relation`. The key is the replica identity, with identity full or
    nothing the primary key, which is looked up unless given."""
    await types.learn(connection, {column.oid for column in relation.columns})
    kinds = [types.kind(column.oid, column.typmod) for column in relation.columns]
    names = await _type_names(connection, relation)
    columns = tuple(
        Column(column.name, kind.logical, name)
        for column, kind, name in zip(relation.columns, kinds, names, strict=True)
    )
    if primary_key is None:
        primary_key = await _primary_key(connection, relation.relid)
    key = _key(relation, primary_key)
    return Decoder(TableSchema(db, relation.schema, relation.name, columns, key), kinds)


def _key(relation: Relation, primary_key: tuple[str, ...]) -> tuple[str, ...]:
    """In the primary key's order where it is the key, so that its index serves the backfill."""
    names = {column.name for column in relation.columns}
    identity = tuple(column.name for column in relation.columns if column.in_identity)
    if relation.identity in "fn":
        return primary_key if names.issuperset(primary_key) else ()
    return primary_key if set(identity) == set(primary_key) else identity


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


async def _primary_key(connection: AsyncConnection[Any], relid: int) -> tuple[str, ...]:
    rows = await fetch(
        connection,
        sql.SQL(
            "SELECT a.attname::text FROM pg_index i,"
            " unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, ord)"
            " JOIN pg_attribute a ON a.attnum = k.attnum"
            " WHERE i.indrelid = %s::bigint::oid AND a.attrelid = i.indrelid"
            " AND i.indisprimary AND k.ord <= i.indnkeyatts ORDER BY k.ord"
        ),
        relid,
    )
    return tuple(name for (name,) in rows)


async def find_slot(connection: AsyncConnection[Any], name: str) -> Slot | None:
    rows = await fetch(
        connection,
        sql.SQL(
            "SELECT plugin::text, database::text, confirmed_flush_lsn::text, active_pid,"
            " wal_status, temporary FROM pg_replication_slots WHERE slot_name = %s"
        ),
        name,
    )
    return Slot(*rows[0]) if rows else None


async def published(connection: AsyncConnection[Any], publication: str) -> set[str] | None:
    """The labels of the publication's tables; None if there is no such publication."""
    exists = await fetch(
        connection, sql.SQL("SELECT 1 FROM pg_publication WHERE pubname = %s"), publication
    )
    if not exists:
        return None
    rows = await fetch(
        connection,
        sql.SQL(
            "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = %s"
        ),
        publication,
    )
    return {label for (label,) in rows}
