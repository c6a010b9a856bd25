"""What the role may: to replicate, and to read what is there."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from psycopg import sql

from tailrace.connector import Finding
from tailrace_postgres.check.view import View, listed, some
from tailrace_postgres.tables import Table

# Amazon RDS grants replication by membership.
_REPLICATION = """
SELECT rolreplication OR rolsuper OR EXISTS (
    SELECT FROM pg_roles g WHERE g.rolname = 'rds_replication' AND pg_has_role(g.oid, 'MEMBER'))
FROM pg_roles r WHERE rolname = current_user
"""
_READING = """
SELECT c.oid::bigint, has_schema_privilege(n.oid, 'USAGE'),
       has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY(%s::bigint[]::oid[]) ORDER BY n.nspname, c.relname
"""


async def replication(view: View) -> list[Finding]:
    [(allowed,)] = await view.rows(_REPLICATION)
    if allowed:
        return [Finding("ok", "role", f"{view.role} may replicate")]
    mend = view.statement("ALTER ROLE {} REPLICATION;", sql.Identifier(view.role))
    return [Finding("error", "role", f"{view.role} may not replicate", mend)]


class _Right(Struct, frozen=True):
    """What the role may with one table; None where it has gone meanwhile."""

    table: Table
    usage: bool | None
    select: bool | None
    hides_rows: bool | None


async def reading(view: View) -> list[Finding]:
    """Whether the backfill sees every row of every table."""
    tables = {table.relation.relid: table for table in view.backfilled}
    if not tables:
        return []
    found = await view.rows(_READING, list(tables))
    rights = [_Right(tables[oid], *rest) for oid, *rest in found]
    findings = [
        *_closed_schemas([right.table for right in rights if right.usage is False], view),
        *_closed_tables([right.table for right in rights if right.select is False], view),
        *_hidden_rows([right.table for right in rights if right.hides_rows], view),
    ]
    labels = some([table.label for table in tables.values()])
    return findings or [Finding("ok", "SELECT", f"{view.role} may read the rows of {labels}")]


def _closed_schemas(tables: Sequence[Table], view: View) -> list[Finding]:
    names = sorted({table.relation.schema for table in tables})
    if not names:
        return []
    schemas = sql.SQL(", ").join(map(sql.Identifier, names))
    grant = view.statement("GRANT USAGE ON SCHEMA {} TO {};", schemas, sql.Identifier(view.role))
    return [Finding("error", "USAGE", f"{view.role} may not use {some(names)}", grant)]


def _closed_tables(tables: Sequence[Table], view: View) -> list[Finding]:
    if not tables:
        return []
    text = f"{view.role} may not read {some([table.label for table in tables])}"
    role = sql.Identifier(view.role)
    grant = view.statement("GRANT SELECT ON TABLE {} TO {};", listed(tables), role)
    return [Finding("error", "SELECT", text, grant)]


def _hidden_rows(tables: Sequence[Table], view: View) -> list[Finding]:
    if not tables:
        return []
    labels = some([table.label for table in tables])
    text = f"row-level security of {labels} would hide rows from {view.role}"
    mend = view.statement("ALTER ROLE {} BYPASSRLS;", sql.Identifier(view.role))
    return [Finding("error", "row security", text, mend)]
