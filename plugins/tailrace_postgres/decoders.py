"""One decoder, and so one TableSchema, for each shape of a relation.

The log describes rows as they were written; types' names and primary keys are looked up in the
catalog of today, where a table or a type may be gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from psycopg import AsyncConnection

from tailrace_postgres.catalog import Types, decoder_for
from tailrace_postgres.decoder import Decoder
from tailrace_postgres.pgoutput import Relation
from tailrace_postgres.tables import key_of, row_key

Connect = Callable[[], Awaitable[AsyncConnection[Any]]]


class Decoders:
    """Decoders by shape. `connect` gives the connection for the catalog."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._types = Types()
        self._known: dict[Relation, Decoder] = {}

    async def of(self, relation: Relation, key: tuple[str, ...] | None = None) -> Decoder:
        """The decoder for rows of `relation`, whose key is looked up unless it is given.

        The key of a table that is gone is the one that it was last seen with.
        """
        connection = await self._connect()
        key = await key_of(connection, relation) if key is None else key
        known = self._known.get(relation)
        if known is None or key not in (None, known.table.key):
            key = row_key(relation, ()) if key is None else key
            db = connection.info.dbname
            known = await decoder_for(connection, self._types, db, relation, key)
            self._known[relation] = known
        return known
