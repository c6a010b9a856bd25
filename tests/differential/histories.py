"""Histories for hypothesis: tables of any shape, and transactions that change them.

A history is drawn beside a model of what is there, so that nearly every statement is one that the
server takes. What a transaction or a savepoint that is rolled back has done, the model forgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field

from hypothesis import strategies as st

from differential.values import TEXT, VALUES

LONG = "(SELECT string_agg(md5((n + {}) :: text), '') FROM generate_series(1, 75) AS n)"
"""Too long for its row, so it is stored apart (TOAST), and short enough for an index."""

TABLES = ("orders", "Mixed Case", 'quo"te', "naïve", "select", "a.b")
COLUMNS = ("a", "b", "Mixed", "c d", 'e"f', "né", "order", "g.h", "i[j]:k", "new-tuple:")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | None, type: str) -> str:
    return "NULL" if text is None else f"'{text.replace(chr(39), chr(39) * 2)}'::{type}"


@dataclass
class Copy:
    """COPY … FROM STDIN with these rows."""

    into: str
    rows: list[tuple[str | None, ...]]


@dataclass
class Block:
    """Statements behind a savepoint."""

    statements: list[Statement]
    kept: bool


Statement = str | Copy | Block


@dataclass
class Commit:
    """A transaction; one that is not `kept` is rolled back."""

    statements: list[Statement]
    kept: bool


@dataclass
class Table:
    """`id` and `twin` are in every table, `part` in a composite key; `columns` maps to types."""

    name: str
    key: tuple[str, ...]
    columns: dict[str, str]
    identity: str = "DEFAULT"

    @property
    def sql(self) -> str:
        return quoted(self.name)

    @property
    def types(self) -> dict[str, str]:
        fixed = {"id": "integer", "twin": "integer"}
        return {**fixed, **({"part": "text"} if "part" in self.key else {}), **self.columns}

    @property
    def may_change(self) -> bool:
        """Without an identity the server refuses updates and deletes of published tables."""
        return self.identity.startswith(("FULL", "USING")) or (
            self.identity == "DEFAULT" and bool(self.key)
        )


@dataclass
class Model:
    tables: list[Table] = field(default_factory=list)


class Author:
    """Draws statements. Numbers for keys and names are used once, also over rollbacks."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.model = Model()
        self._number = 0

    def fresh(self) -> int:
        self._number += 1
        return self._number

    def one(self, *choices: Callable[[], Statement]) -> Statement:
        return self.draw(st.sampled_from(choices))()

    @contextmanager
    def scope(self, *, kept: bool) -> Iterator[None]:
        before = deepcopy(self.model)
        yield
        if not kept:
            self.model = before

    # -- transactions

    def commit(self) -> Commit:
        kept = self.draw(st.sampled_from([True, True, True, False]))
        with self.scope(kept=kept):
            return Commit(self._statements(5), kept)

    def _statements(self, most: int) -> list[Statement]:
        return [self.statement() for _ in range(self.draw(st.integers(1, most)))]

    def statement(self) -> Statement:
        if not self.model.tables:
            return self.create()
        rare = (self.create, self.drop, self.truncate, self.block, self.emptied)
        shape = (self.add_column, self.drop_column, self.rename_column, self.retype, self.identify)
        rows = (self.insert, self.series, self.copy, self.update, self.move, self.delete)
        return self.one(*rare, *shape, *rows * 3)

    def block(self) -> Statement:
        kept = self.draw(st.booleans())
        with self.scope(kept=kept):
            return Block(self._statements(3), kept)

    # -- shapes

    def table(self) -> Table:
        return self.draw(st.sampled_from(self.model.tables))

    def create(self) -> Statement:
        name = f"{self.draw(st.sampled_from(TABLES))} {self.fresh()}"
        key = self.draw(st.sampled_from([("id",), ("part", "id"), ()]))
        types = st.sampled_from(sorted(VALUES))
        names = self.draw(st.lists(st.sampled_from(COLUMNS), max_size=4, unique=True))
        table = Table(name, key, {column: self.draw(types) for column in names})
        self.model.tables.append(table)
        columns = [f"{quoted(column)} {type}" for column, type in table.types.items()]
        unique = ["UNIQUE (twin)", *([f"PRIMARY KEY ({', '.join(key)})"] if key else [])]
        columns[1] += " NOT NULL"
        return f"CREATE TABLE {table.sql} ({', '.join([*columns, *unique])})"

    def drop(self) -> Statement:
        table = self.table()
        self.model.tables.remove(table)
        return f"DROP TABLE {table.sql}"

    def identify(self) -> Statement:
        table = self.table()
        table.identity = self.draw(st.sampled_from(["DEFAULT", "FULL", "NOTHING", "USING INDEX"]))
        if table.identity != "USING INDEX":
            return f"ALTER TABLE {table.sql} REPLICA IDENTITY {table.identity}"
        index = f"twins_{self.fresh()}"
        return (
            f"CREATE UNIQUE INDEX {index} ON {table.sql} (twin);"
            f" ALTER TABLE {table.sql} REPLICA IDENTITY USING INDEX {index}"
        )

    def add_column(self) -> Statement:
        table = self.table()
        column = f"{self.draw(st.sampled_from(COLUMNS))} {self.fresh()}"
        type = table.columns[column] = self.draw(st.sampled_from(sorted(VALUES)))
        default = self.draw(st.none() | VALUES[type])
        more = "" if default is None else f" DEFAULT {literal(default, type)}"
        return f"ALTER TABLE {table.sql} ADD COLUMN {quoted(column)} {type}{more}"

    def _column(self, table: Table) -> str | None:
        return self.draw(st.sampled_from(sorted(table.columns))) if table.columns else None

    def drop_column(self) -> Statement:
        table = self.table()
        column = self._column(table)
        if column is None:
            return self.add_column()
        del table.columns[column]
        return f"ALTER TABLE {table.sql} DROP COLUMN {quoted(column)}"

    def rename_column(self) -> Statement:
        table = self.table()
        column = self._column(table)
        if column is None:
            return self.add_column()
        name = f"{self.draw(st.sampled_from(COLUMNS))} {self.fresh()}"
        table.columns = {name if c == column else c: type for c, type in table.columns.items()}
        return f"ALTER TABLE {table.sql} RENAME COLUMN {quoted(column)} TO {quoted(name)}"

    def retype(self) -> Statement:
        table = self.table()
        column = self._column(table)
        if column is None:
            return self.add_column()
        table.columns[column] = "text"
        name = quoted(column)
        return f"ALTER TABLE {table.sql} ALTER {name} DROP DEFAULT, ALTER {name} TYPE text"

    # -- rows

    def value(self, type: str) -> str | None:
        return self.draw(st.none() | VALUES[type])

    def expression(self, type: str) -> str:
        if type == "text" and self.draw(st.integers(0, 3)) == 0:
            return LONG.format(self.fresh())
        return literal(self.value(type), type)

    def _fixed(self, column: str) -> str | None:
        """A value for a column that must have one of its own."""
        if column == "part":
            return self.draw(TEXT)
        return str(self.fresh()) if column in ("id", "twin") else None

    def insert(self) -> Statement:
        table = self.table()
        rows = ", ".join(self._row(table) for _ in range(self.draw(st.integers(1, 3))))
        names = ", ".join(map(quoted, table.types))
        return f"INSERT INTO {table.sql} ({names}) VALUES {rows}"

    def _row(self, table: Table) -> str:
        values = [
            self.expression(type) if (fixed := self._fixed(name)) is None else literal(fixed, type)
            for name, type in table.types.items()
        ]
        return f"({', '.join(values)})"

    def copy(self) -> Statement:
        table = self.table()
        rows = [
            tuple(
                self.value(type) if (fixed := self._fixed(name)) is None else fixed
                for name, type in table.types.items()
            )
            for _ in range(self.draw(st.integers(1, 3)))
        ]
        names = ", ".join(map(quoted, table.types))
        return Copy(f"COPY {table.sql} ({names}) FROM STDIN", rows)

    def series(self) -> Statement:
        """Many rows by one statement, also several with the same values."""
        table = self.table()
        low = self.fresh()
        self._number = high = low + self.draw(st.integers(1, 9))
        values = [
            "n" if name in ("id", "twin") else self.expression(type)
            for name, type in table.types.items()
            if name != "part"
        ]
        if "part" in table.key:
            values.insert(2, "'x' || n")
        names = ", ".join(map(quoted, table.types))
        query = f"SELECT {', '.join(values)} FROM generate_series({low}, {high}) AS n"
        return f"INSERT INTO {table.sql} ({names}) {query}"

    def _where(self) -> str:
        parts = self.draw(st.integers(1, 4))
        return f"WHERE id % {parts} = {self.draw(st.integers(0, parts - 1))}"

    def update(self) -> Statement:
        table = self.table()
        column = self._column(table)
        if column is None or not table.may_change:
            return self.insert()
        value = self.expression(table.columns[column])
        return f"UPDATE {table.sql} SET {quoted(column)} = {value} {self._where()}"

    def move(self) -> Statement:
        """Another key, or another `twin`, for one row."""
        table = self.table()
        if not table.may_change:
            return self.insert()
        changed = self.draw(st.sampled_from(sorted({"id", "twin", *table.key})))
        value = LONG.format(self.fresh()) if changed == "part" else str(self.fresh())
        lowest = f"(SELECT min(id) FROM {table.sql})"
        return f"UPDATE {table.sql} SET {changed} = {value} WHERE id = {lowest}"

    def delete(self) -> Statement:
        table = self.table()
        if not table.may_change:
            return self.insert()
        return f"DELETE FROM {table.sql} {self._where()}"

    def truncate(self) -> Statement:
        tables = self.draw(
            st.lists(st.sampled_from(self.model.tables), min_size=1, unique_by=lambda t: t.name)
        )
        more = self.draw(st.sampled_from(["", " RESTART IDENTITY", " CASCADE"]))
        return f"TRUNCATE {', '.join(table.sql for table in tables)}{more}"

    def emptied(self) -> Statement:
        """A statement that finds nothing to change."""
        table = self.table()
        return f"DELETE FROM {table.sql} WHERE false" if table.may_change else self.insert()


@st.composite
def histories(draw: st.DrawFn) -> list[Commit]:
    author = Author(draw)
    first = Commit([author.create() for _ in range(draw(st.integers(1, 3)))], kept=True)
    return [first, *(author.commit() for _ in range(draw(st.integers(1, 6))))]
