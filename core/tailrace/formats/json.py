"""The native format: one JSON object an event (docs/formats/event.schema.json)."""

from __future__ import annotations

from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import Any, ClassVar

from tailrace.config import PluginConfig
from tailrace.event import Event, Transaction
from tailrace.formats import Format, Message
from tailrace.schema import TableSchema
from tailrace.values import rfc3339, to_json


class JsonConfig(PluginConfig):
    """The native format has no settings."""


class JsonFormat(Format):
    """``{"v":1,"id":…,"op":…,"ts":…,"source":{…},"key":…,"before":…,"after":…,…}``.

    Text is built as UTF-8 carried in latin-1, and encoded once. What the events of a transaction
    share for one table is built once.
    """

    Config: ClassVar[type[PluginConfig]] = JsonConfig
    content_type = "application/json"

    def __init__(self, config: Any, *, name: str, connector: str) -> None:
        super().__init__(config, name=name, connector=connector)
        self._origin = f'"connector":{to_json(connector)},"name":{to_json(name)}'
        self._tables: dict[int, tuple[TableSchema, str]] = {}  # by id: hashing a schema is slow

    def encode(self, events: Sequence[Event], *, keyed: bool = False) -> list[Message]:
        return [
            Message(text.encode("latin-1"), [event], message_key(event) if keyed else None)
            for event, text in zip(events, self._texts(events), strict=True)
        ]

    def lines(self, events: Sequence[Event]) -> bytes:
        return "\n".join([*self._texts(events), ""]).encode("latin-1")

    def _texts(self, events: Sequence[Event]) -> list[str]:
        """Each event as UTF-8 carried in latin-1."""
        texts = []
        transaction: Transaction | None = None
        table: TableSchema | None = None
        shared = ""
        for event in events:
            if event.transaction is not transaction or event.table is not table:
                transaction, table = event.transaction, event.table
                shared = self._shared(transaction, table)
            context = "null" if event.context is None else to_json(event.context)
            texts.append(
                f'{{"v":1,"id":{_quoted(event.id)},"op":"{event.op}",{shared},'
                f'{event.change.json()},"context":{context}}}'
            )
        return texts

    def _shared(self, transaction: Transaction, table: TableSchema) -> str:
        """The members ``ts`` and ``source``."""
        known = self._tables.get(id(table))
        if known is None:
            known = self._tables[id(table)] = (table, _names(table))
        txid = "null" if transaction.txid is None else _quoted(transaction.txid)
        return (
            f'"ts":"{rfc3339(transaction.ts)}","source":{{{self._origin},{known[1]},'
            f'"position":{_quoted(transaction.position)},"txid":{txid}}}'
        )


def _quoted(text: str) -> str:
    return encode_basestring(text) if text.isascii() else to_json(text)


def _names(table: TableSchema) -> str:
    schema = "" if table.schema is None else f'"schema":{to_json(table.schema)},'
    return f'"db":{to_json(table.db)},{schema}"table":{to_json(table.name)}'


def message_key(event: Event) -> bytes | None:
    """The key columns as JSON; None for a table without a key."""
    key = event.key
    return None if key is None else to_json(key).encode("latin-1")
