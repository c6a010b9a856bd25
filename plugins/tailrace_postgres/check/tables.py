"""The captured tables: what identifies a row, and what cannot be captured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct
from psycopg import sql

from tailrace.connector import Finding
from tailrace_postgres.check.view import View, identifier, some
from tailrace_postgres.tables import Table

_IDENTITIES = """
SELECT c.oid::bigint,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
               AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END),
       (SELECT x.relname FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
              AND i.indpred IS NULL AND i.indexprs IS NULL
              AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid
                              AND a.attnum = ANY(i.indkey) AND NOT a.attnotnull)
        ORDER BY x.relname LIMIT 1),
       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
               AND NOT a.attisdropped AND a.attstorage IN ('x', 'e'))
FROM pg_class c WHERE c.oid = ANY(%s::bigint[]::oid[])
"""
_OTHERS = """
SELECT n.nspname || '.' || c.relname, n.nspname, c.relname, c.relkind
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (c.relkind IN ('f', 'm', 'p', 'v') OR (c.relkind = 'r' AND c.relpersistence = 'u'))
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1
"""
_KINDS = {
    "f": "a foreign table",
    "m": "a materialized view",
    "p": "a partitioned table",
    "r": "an unlogged table",
    "v": "a view",
}
_PUBLISHED = "SELECT pubupdate OR pubdelete FROM pg_publication WHERE pubname = %s"


class _Identity(Struct, frozen=True):
    """How a table's rows are told apart in the log.

    `usable`: the key that its replica identity means is there. `index` could serve instead.
    """

    table: Table
    usable: bool
    index: str | None
    large: bool

    @property
    def kind(self) -> str:
        return self.table.relation.identity

    @property
    def missing(self) -> bool:
        return self.kind == "n" or (self.kind != "f" and not self.usable)


async def captured(view: View) -> list[Finding]:
    """Which tables the patterns mean, and what among them cannot be captured."""
    patterns = view.names.patterns
    others = await view.rows(_OTHERS)
    missing = patterns.unmatched(table.label for table in view.tables)
    kinds = {label: kind for label, _, _, kind in others}
    findings = [_unmatched(text, kinds.get(text), view) for text in missing]
    if view.tables:
        labels = some([table.label for table in view.tables])
        findings.append(Finding("ok", "tables", f"{len(view.tables)} captured: {labels}"))
    for label, schema, name, kind in others:
        if kind in "rf" and patterns.matches(label):
            findings.append(_outside(label, sql.Identifier(schema, name), kind, view))
    return findings


def _unmatched(pattern: str, kind: str | None, view: View) -> Finding:
    if view.names.patterns.everything:
        text = "the database has no tables that could be captured"
        return Finding("error", "tables", text, "name the right database in source.dsn")
    text = f"no table matches {pattern}" + (f", which is {_KINDS[kind]}" if kind else "")
    mend = "name an existing table as schema.table in source.tables; case counts"
    if kind == "p":
        mend = "name its partitions, or set source.partitions=root"
    return Finding("error", "tables", text, mend)


def _outside(label: str, name: sql.Identifier, kind: str, view: View) -> Finding:
    text = f"{_KINDS[kind]}: its changes are not in the log, so it is left out"
    mend = f"exclude it, so that nobody relies on it: !{label} in source.tables"
    if kind == "r":
        mend = view.statement("ALTER TABLE {} SET LOGGED;", name)
    return Finding("warning", label, text, mend)


async def identities(view: View) -> list[Finding]:
    """Replica identity: what an UPDATE or DELETE says about the row that it changed."""
    found = await view.rows(_IDENTITIES, [table.relation.relid for table in view.tables])
    rest = {oid: columns for oid, *columns in found}
    tables = [table for table in view.tables if table.relation.relid in rest]
    each = [_Identity(table, *rest[table.relation.relid]) for table in tables]
    broken = [one for one in each if one.missing] if await _publishes_old_rows(view) else []
    return [*(_broken(one, view) for one in broken), *_remarks(each, view)]


async def _publishes_old_rows(view: View) -> bool:
    rows = await view.rows(_PUBLISHED, view.names.publication)
    return all(published for (published,) in rows)


def _broken(one: _Identity, view: View) -> Finding:
    why = {"n": "replica identity nothing", "i": "the index of its replica identity is gone"}
    text = why.get(one.kind, "no primary key and no other replica identity")
    text += ": every UPDATE and DELETE of it fails for everybody once it is published"
    name = identifier(one.table)
    mend = view.statement("ALTER TABLE {} REPLICA IDENTITY FULL;", name)
    if one.kind == "n" and one.table.key:
        mend = view.statement("ALTER TABLE {} REPLICA IDENTITY DEFAULT;", name)
    elif one.index is not None:
        template = "ALTER TABLE {} REPLICA IDENTITY USING INDEX {};"
        mend = view.statement(template, name, sql.Identifier(one.index))
    return Finding("error", one.table.label, text, mend)


def _remarks(each: Sequence[_Identity], view: View) -> Iterator[Finding]:
    subject = "replica identity"
    if full := [one.table.label for one in each if one.kind == "f"]:
        text = f"full: the log has the whole old row of each change, of {some(full)}"
        yield Finding("ok", subject, text)
    if index := [one.table.label for one in each if one.kind == "i" and one.usable]:
        yield Finding("ok", subject, f"an index, which is the events' key, of {some(index)}")
    if large := [one.table.label for one in each if one.large and one.kind in "di"]:
        text = f"large values that an UPDATE does not touch are not in its event, of {some(large)}"
        yield Finding("ok", "TOAST", text)
    backfilled = {table.label for table in view.backfilled}
    keyless = [one.table.label for one in each if not _has_key(one)]
    if read := [label for label in keyless if label in backfilled]:
        text = f"the backfill reads each in one go, as of one moment: {some(read)}"
        yield Finding("ok", "no key", text)


def _has_key(one: _Identity) -> bool:
    """Whether the backfill can read the table in the order of a key."""
    return bool(one.table.key)
