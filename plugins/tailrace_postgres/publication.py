"""A publication: what it publishes, and the statements that make and change it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from psycopg import AsyncConnection, sql

from tailrace_postgres.catalog import fetch
from tailrace_postgres.tables import Table

OPS = ("insert", "update", "delete", "truncate")


class Publication(Struct, frozen=True):
    """A publication as the catalog has it now.

    `unpublished` are the operations that it leaves out; `named` the tables, as schema and name,
    that it lists one by one (not those of FOR ALL TABLES or of a schema). `owned`: the role has
    its owner's rights.
    """

    name: str
    owned: bool
    via_root: bool
    unpublished: tuple[str, ...]
    named: frozenset[tuple[str, str]]


async def find_publication(connection: AsyncConnection[Any], name: str) -> Publication | None:
    rows = await fetch(
        connection,
        sql.SQL(
            "SELECT oid, pg_has_role(pubowner, 'USAGE'), pubviaroot,"
            " pubinsert, pubupdate, pubdelete, pubtruncate"
            " FROM pg_publication WHERE pubname = %s"
        ),
        name,
    )
    if not rows:
        return None
    [(oid, owned, via_root, *published)] = rows
    named = await fetch(
        connection,
        sql.SQL(
            "SELECT n.nspname, c.relname FROM pg_publication_rel r JOIN pg_class c"
            " ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE r.prpubid = %s"
        ),
        oid,
    )
    unpublished = tuple(
        op for op, is_published in zip(OPS, published, strict=True) if not is_published
    )
    return Publication(name, owned, via_root, unpublished, frozenset(named))


def creating(name: str, tables: Sequence[Table] | None, *, via_root: bool) -> sql.Composed:
    """CREATE PUBLICATION for `tables`, or for all tables if None."""
    what = sql.SQL("ALL TABLES") if tables is None else sql.SQL("TABLE ") + _list(tables)
    option = " WITH (publish_via_partition_root = true)" if via_root else ""
    return sql.SQL("CREATE PUBLICATION {} FOR {}" + option).format(sql.Identifier(name), what)


def adding(name: str, tables: Sequence[Table]) -> sql.Composed:
    return sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(sql.Identifier(name), _list(tables))


def dropping(name: str, tables: Iterable[tuple[str, str]]) -> sql.Composed:
    """Of a table's heirs those that are not named stay."""
    names = sql.SQL(", ").join(sql.SQL("ONLY ") + sql.Identifier(*path) for path in sorted(tables))
    return sql.SQL("ALTER PUBLICATION {} DROP TABLE {}").format(sql.Identifier(name), names)


def setting(name: str, option: str) -> sql.Composed:
    return sql.SQL("ALTER PUBLICATION {} SET (" + option + ")").format(sql.Identifier(name))


def _list(tables: Sequence[Table]) -> sql.Composed:
    return sql.SQL(", ").join(table.reference for table in tables)
