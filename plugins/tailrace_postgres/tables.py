"""The tables of the database: columns, key, and what of them a publication publishes.

The catalog is read without a lock on any table: somebody may hold one for hours. So the view
pg_publication_tables is not used, which waits for every table that it names.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from psycopg import AsyncConnection, sql

from tailrace.patterns import Patterns
from tailrace_postgres.catalog import fetch
from tailrace_postgres.pgoutput import Relation, RelationColumn


class Table(Struct, frozen=True):
    """A table that can be captured, as the catalog has it now.

    `relation` has the columns that the publication publishes, or would publish; `where` is its row
    filter. `key` is empty where those columns do not hold all of it. `rows` is the planner's
    estimate. A `partitioned` table is read with its partitions, any other without its heirs; a
    `partition` is one of another table's.
    """

    relation: Relation
    key: tuple[str, ...]
    rows: int
    partitioned: bool
    partition: bool
    published: bool
    where: str | None

    @property
    def label(self) -> str:
        return f"{self.relation.schema}.{self.relation.name}"

    @property
    def reference(self) -> sql.Composed:
        """The table in SQL, without the tables that inherit from it."""
        only = sql.SQL("" if self.partitioned else "ONLY ")
        return only + sql.Identifier(self.relation.schema, self.relation.name)

    @property
    def identified(self) -> bool:
        """Whether the server lets UPDATE and DELETE be published."""
        return self.relation.identity == "f" or any(c.in_identity for c in self.relation.columns)


_INDEX = sql.SQL(
    "(SELECT array_agg(a.attname::text ORDER BY k.ord)"
    " FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, ord)"
    " JOIN pg_attribute a ON a.attnum = k.attnum"
    " WHERE i.indrelid = c.oid AND a.attrelid = c.oid AND k.ord <= i.indnkeyatts AND {})"
)
_PRIMARY_KEY = _INDEX.format(sql.SQL("i.indisprimary AND i.indimmediate"))
_IDENTITY = _INDEX.format(sql.SQL("i.indisreplident"))
_ROWS = sql.SQL(
    """
CASE c.relkind WHEN 'r' THEN c.reltuples ELSE
  (WITH RECURSIVE tree AS (
     SELECT inhrelid FROM pg_inherits WHERE inhparent = c.oid
     UNION ALL SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.inhrelid)
   SELECT sum(greatest(l.reltuples, 0)) FROM tree JOIN pg_class l ON l.oid = tree.inhrelid
   WHERE l.relkind = 'r') END::bigint
"""
)
# `named` is what the publication names, by itself or with its schema; what it publishes are the
# topmost of these, or the leaves below them (pgoutput.c, get_rel_sync_entry). A list of columns
# and a row filter are the named table's own, and nothing beside its whole schema.
_TABLES = sql.SQL(
    """
WITH pub AS (SELECT oid, puballtables, pubviaroot, {generated} AS generated
             FROM pg_publication p WHERE pubname = %s),
named AS (SELECT prrelid AS oid FROM pg_publication_rel, pub WHERE prpubid = pub.oid
          UNION SELECT k.oid FROM pub JOIN {schemas} s ON s.pnpubid = pub.oid
                JOIN pg_class k ON k.relnamespace = s.pnnspid WHERE k.relkind IN ('r', 'p'))
SELECT c.oid::bigint, n.nspname, c.relname, c.relreplident,
       c.relkind = 'p', c.relispartition, {rows},
       {primary}, {identity},
       (SELECT array_agg(ARRAY[a.attname::text, a.atttypid::text, a.atttypmod::text]
                         ORDER BY a.attnum)
        FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              AND CASE WHEN own.columns IS NULL THEN a.attgenerated IN ('', pub.generated)
                  ELSE a.attnum = ANY (own.columns) END),
       CASE WHEN pub.puballtables AND pub.pubviaroot THEN NOT c.relispartition
            WHEN pub.puballtables THEN c.relkind = 'r'
            WHEN pub.pubviaroot THEN c.oid IN (TABLE named) AND NOT EXISTS (
              SELECT FROM pg_partition_ancestors(c.oid) u WHERE u <> c.oid AND u IN (TABLE named))
            ELSE c.relkind = 'r' AND (c.oid IN (TABLE named) OR EXISTS (
              SELECT FROM pg_partition_ancestors(c.oid) u WHERE u IN (TABLE named)))
       END IS TRUE,
       own.filter
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pub ON true
LEFT JOIN LATERAL (
  SELECT {columns} AS columns, {filter} AS filter FROM pg_publication_rel r
  WHERE r.prpubid = pub.oid AND r.prrelid = c.oid AND NOT EXISTS (
    SELECT FROM {schemas} s WHERE s.pnpubid = pub.oid AND s.pnnspid = n.oid)) own ON true
WHERE c.relpersistence = 'p' AND c.relkind IN ('r', 'p')
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast'
"""
)
_15 = {
    "schemas": "pg_publication_namespace",
    "columns": "r.prattrs::int2[]",
    "filter": "pg_get_expr(r.prqual, r.prrelid)",
}
_14 = {
    "schemas": "(SELECT NULL::oid AS pnpubid, NULL::oid AS pnnspid)",
    "columns": "NULL::int2[]",
    "filter": "NULL::text",
}


async def user_tables(
    connection: AsyncConnection[Any], patterns: Patterns, publication: str, *, roots: bool
) -> list[Table]:
    """The tables that match, by name; of a partitioned one the partitions, or with `roots` it.

    A partition that is published by itself stands for itself.
    """
    tables = await _tables(connection, "ORDER BY 2, 3", publication)
    if roots:
        tables = [table for table in tables if table.published or not table.partition]
    else:
        tables = [table for table in tables if not table.partitioned]
    return [table for table in tables if patterns.matches(table.label)]


async def one_table(
    connection: AsyncConnection[Any], schema: str, name: str, publication: str
) -> Table | None:
    """The table as it is now; None if it is gone."""
    which = "AND n.nspname = %s AND c.relname = %s"
    tables = await _tables(connection, which, publication, schema, name)
    return tables[0] if tables else None


async def odd_partitions(connection: AsyncConnection[Any], root: Table) -> list[str]:
    """Partitions whose old keys, under their own replica identity, are not those of `root`."""
    odd = "d" if root.relation.identity == "i" else "i"
    query = sql.SQL(
        "WITH RECURSIVE tree AS (SELECT inhrelid FROM pg_inherits WHERE inhparent = %s::oid"
        " UNION ALL SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.inhrelid)"
        " SELECT n.nspname || '.' || l.relname FROM tree JOIN pg_class l ON l.oid = tree.inhrelid"
        " JOIN pg_namespace n ON n.oid = l.relnamespace"
        " WHERE l.relkind = 'r' AND l.relreplident = %s ORDER BY 1"
    )
    return [label for (label,) in await fetch(connection, query, root.relation.relid, odd)]


async def _tables(connection: AsyncConnection[Any], which: str, *values: str) -> list[Table]:
    version = connection.info.server_version
    parts = _15 if version >= 150_000 else _14
    generated = "CASE pubgencols WHEN 's' THEN 's' ELSE '' END" if version >= 180_000 else "''"
    query = _TABLES.format(
        rows=_ROWS,
        primary=_PRIMARY_KEY,
        identity=_IDENTITY,
        generated=sql.SQL(generated),
        **{name: sql.SQL(text) for name, text in parts.items()},
    )
    rows = await fetch(connection, query + sql.SQL(which), *values)
    return [_table(*row) for row in rows if row[9]]


def _table(
    oid: int,
    schema: str,
    name: str,
    identity: str,
    partitioned: bool,
    partition: bool,
    rows: int | None,
    primary: list[str] | None,
    index: list[str] | None,
    columns: list[list[str]],
    published: bool,
    where: str | None,
) -> Table:
    names = {column for column, _, _ in columns}
    marked = {"d": primary, "i": index, "f": names}.get(identity) or ()
    described = tuple(
        RelationColumn(column, int(oid), int(typmod), column in marked)
        for column, oid, typmod in columns
    )
    relation = Relation(oid, schema, name, identity, described)
    key = row_key(relation, tuple(primary or ())) if names.issuperset(marked) else ()
    return Table(relation, key, max(0, rows or 0), partitioned, partition, published, where)


def row_key(relation: Relation, primary_key: tuple[str, ...]) -> tuple[str, ...]:
    """The replica identity; with identity full or nothing the primary key.

    In the primary key's order where it is the key, so that its index serves the backfill.
    """
    names = {column.name for column in relation.columns}
    identity = tuple(column.name for column in relation.columns if column.in_identity)
    if relation.identity in "fn":
        return primary_key if names.issuperset(primary_key) else ()
    return primary_key if set(identity) == set(primary_key) else identity


async def key_of(connection: AsyncConnection[Any], relation: Relation) -> tuple[str, ...] | None:
    """The key of rows of `relation`, given today's primary key; None if the table is gone."""
    query = sql.SQL("SELECT {} FROM pg_class c WHERE c.oid = %s::bigint::oid").format(_PRIMARY_KEY)
    rows = await fetch(connection, query, relation.relid)
    return row_key(relation, tuple(rows[0][0] or ())) if rows else None
