"""The publication: whether it is there, and gives all that is captured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct, convert
from psycopg import sql

from tailrace.connector import Finding
from tailrace_postgres.catalog import Table, published
from tailrace_postgres.check.view import View, listed, some

_PUBLICATION = """
SELECT to_jsonb(p) || jsonb_build_object('owned', pg_has_role(p.pubowner, 'USAGE'))
FROM pg_publication p WHERE pubname = %s
"""
_RIGHTS = """
SELECT has_database_privilege(current_database(), 'CREATE'),
       (SELECT coalesce(array_agg(c.oid::bigint), '{}') FROM pg_class c
        WHERE c.oid = ANY(%s::bigint[]::oid[]) AND NOT pg_has_role(c.relowner, 'USAGE'))
"""
_PARTIAL = """
SELECT r.prrelid::bigint, to_jsonb(r) ->> 'prqual' IS NOT NULL,
       to_jsonb(r) ->> 'prattrs' IS NOT NULL
FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = %s
"""
_OPS = "publish = 'insert, update, delete, truncate'"


class _Publication(Struct, frozen=True):
    puballtables: bool
    pubinsert: bool
    pubupdate: bool
    pubdelete: bool
    pubtruncate: bool
    pubviaroot: bool
    owned: bool

    @property
    def left_out(self) -> list[str]:
        ops = {
            "insert": self.pubinsert,
            "update": self.pubupdate,
            "delete": self.pubdelete,
            "truncate": self.pubtruncate,
        }
        return [op for op, given in ops.items() if not given]


async def publication(view: View) -> list[Finding]:
    rows = await view.rows(_PUBLICATION, view.names.publication)
    if not rows:
        return [await _missing(view)] if view.tables else []
    found = convert(rows[0][0], _Publication)
    return [await _covering(view, found), *_shape(view, found), *await _partly(view)]


async def _missing(view: View) -> Finding:
    name = view.names.publication
    may_create, foreign = await _rights(view, view.tables)
    if view.superuser or (may_create and not foreign):
        return Finding("ok", "publication", f"{name} is made at the first start")
    why = f"own {some(foreign)}" if foreign else "create anything in the database"
    text = f"{name} is missing, and {view.role} cannot make it: it does not {why}"
    create = view.statement(
        "CREATE PUBLICATION {} FOR TABLE {};", sql.Identifier(name), listed(view.tables)
    )
    mend = f"{create} -- as their owner or a superuser"
    return Finding("error", "publication", text, mend)


async def _rights(view: View, tables: Sequence[Table]) -> tuple[bool, list[str]]:
    """Whether the role may create in the database, and the tables that are not its own."""
    [(may_create, foreign)] = await view.rows(_RIGHTS, [t.relation.relid for t in tables])
    return may_create, [table.label for table in tables if table.relation.relid in foreign]


async def _covering(view: View, found: _Publication) -> Finding:
    name = view.names.publication
    have = await published(view.connection, name) or set()
    missing = [table for table in view.tables if table.label not in have]
    if not missing:
        return Finding("ok", "publication", f"{name} has every captured table")
    labels = some([table.label for table in missing])
    _, foreign = await _rights(view, missing)
    if view.superuser or (found.owned and not foreign):
        return Finding("ok", "publication", f"{name} gets {labels} at the next start")
    text = f"{name} lacks {labels}, and {view.role} may not add to it"
    add = view.statement(
        "ALTER PUBLICATION {} ADD TABLE {};", sql.Identifier(name), listed(missing)
    )
    return Finding("error", "publication", text, f"{add} -- as their owner or a superuser")


def _shape(view: View, found: _Publication) -> Iterator[Finding]:
    name = sql.Identifier(view.names.publication)
    if left_out := found.left_out:
        text = f"no {some(left_out)} is published, so none is delivered"
        mend = view.statement(f"ALTER PUBLICATION {{}} SET ({_OPS});", name)
        yield Finding("warning", "publish", text, mend)
    if found.pubviaroot:
        text = "changes of partitions come under their root's name, the backfill's rows do not"
        mend = view.statement(
            "ALTER PUBLICATION {} SET (publish_via_partition_root = false);", name
        )
        yield Finding("warning", "partitions", text, mend)


async def _partly(view: View) -> list[Finding]:
    """Tables of which the publication gives some rows or some columns only."""
    rows = await view.rows(_PARTIAL, view.names.publication)
    names = {table.relation.relid: table.label for table in view.tables}
    kinds = {
        "row filter": [names[oid] for oid, rows_only, _ in rows if rows_only and oid in names],
        "column list": [names[oid] for oid, _, columns in rows if columns and oid in names],
    }
    return [_partial(view, kind, labels) for kind, labels in kinds.items() if labels]


def _partial(view: View, kind: str, labels: Sequence[str]) -> Finding:
    text = f"the stream gives what it lets through, the backfill everything, of {some(labels)}"
    tables = listed(table for table in view.tables if table.label in labels)
    name = sql.Identifier(view.names.publication)
    mend = view.statement(
        "BEGIN; ALTER PUBLICATION {} DROP TABLE {}; ALTER PUBLICATION {} ADD TABLE {}; COMMIT;",
        *(name, tables, name, tables),
    )
    return Finding("warning", kind, text, mend)
