"""The publication: whether it is there, and gives all that is captured."""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.connector import Finding
from tailrace_postgres.check.view import View, some
from tailrace_postgres.publication import (
    OPS,
    Publication,
    adding,
    creating,
    find_publication,
    setting,
)
from tailrace_postgres.tables import Table

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


async def publication(view: View) -> list[Finding]:
    found = await find_publication(view.connection, view.names.publication)
    if found is None:
        return [await _missing(view)] if view.tables else []
    return [await _covering(view, found), *_left_out(view, found), *await _partly(view)]


def _by_hand(view: View) -> tuple[str, str] | None:
    """Why the pipeline changes nothing itself, and who does; None where it does."""
    if not view.names.config.create:
        return "source.create is false", "by hand"
    return ("this is a standby", "on the primary") if view.standby else None


async def _missing(view: View) -> Finding:
    name = view.names.publication
    may_create, foreign = await _rights(view, view.tables)
    by_hand = _by_hand(view)
    if by_hand is None and (view.superuser or (may_create and not foreign)):
        return Finding("ok", "publication", f"{name} is made at the first start")
    why = f"own {some(foreign)}" if foreign else "create anything in the database"
    no, who = f"{view.role} cannot make it: it does not {why}", "as their owner or a superuser"
    no, who = by_hand or (no, who)
    roots = view.names.config.partitions == "root"
    create = creating(name, view.tables, via_root=roots).as_string(view.connection)
    return Finding("error", "publication", f"{name} is missing, and {no}", f"{create}; -- {who}")


async def _rights(view: View, tables: Sequence[Table]) -> tuple[bool, list[str]]:
    """Whether the role may create in the database, and the tables that are not its own."""
    [(may_create, foreign)] = await view.rows(_RIGHTS, [t.relation.relid for t in tables])
    return may_create, [table.label for table in tables if table.relation.relid in foreign]


async def _covering(view: View, found: Publication) -> Finding:
    name = found.name
    missing = [table for table in view.tables if not table.published]
    if not missing:
        return Finding("ok", "publication", f"{name} has every captured table")
    labels = some([table.label for table in missing])
    _, foreign = await _rights(view, missing)
    by_hand = _by_hand(view)
    if by_hand is None and (view.superuser or (found.owned and not foreign)):
        return Finding("ok", "publication", f"{name} gets {labels} at the next start")
    no, who = by_hand or (f"{view.role} may not add to it", "as their owner or a superuser")
    add = adding(name, missing).as_string(view.connection)
    return Finding("error", "publication", f"{name} lacks {labels}, and {no}", f"{add}; -- {who}")


def _left_out(view: View, found: Publication) -> list[Finding]:
    if not found.unpublished:
        return []
    text = f"no {some(found.unpublished)} is published, so none is delivered"
    every = setting(found.name, f"publish = '{', '.join(OPS)}'").as_string(view.connection)
    return [Finding("warning", "publish", text, f"{every};")]


async def _partly(view: View) -> list[Finding]:
    """Tables of which the publication gives some rows or some columns only."""
    rows = await view.rows(_PARTIAL, view.names.publication)
    names = {table.relation.relid: table.label for table in view.tables}
    kinds = {
        "row filter": [names[oid] for oid, rows_only, _ in rows if rows_only and oid in names],
        "column list": [names[oid] for oid, _, columns in rows if columns and oid in names],
    }
    return [_partial(kind, labels) for kind, labels in kinds.items() if labels]


def _partial(kind: str, labels: Sequence[str]) -> Finding:
    text = f"stream and backfill give what it lets through, of {some(labels)}"
    return Finding("ok", kind, text)
