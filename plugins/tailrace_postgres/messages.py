"""Logical messages (pg_logical_emit_message): what says the context of a transaction, and events.

A transactional message under the prefix ``tailrace.context`` whose content is a JSON object is the
context of what follows in its transaction. Every other message is an event of its own, delivered
if the user wants them.
"""

from __future__ import annotations

import json
import logging
from typing import Any, NoReturn

from tailrace.row import Images
from tailrace.schema import Column, TableSchema
from tailrace_postgres.pgoutput import Message

log = logging.getLogger("tailrace.postgres")

CONTEXT = "tailrace.context"

_DEPTH = 100
"""Levels of a context at most; writing it must not run into Python's limit later."""

_COLUMNS = (
    Column("prefix", "string", "text"),
    Column("content", "bytes", "bytea"),
    Column("transactional", "bool", "boolean"),
)


class Messages:
    """What becomes of the messages of one database; `deliver` is ``source.messages``."""

    def __init__(self, db: str, *, deliver: bool) -> None:
        self.table = TableSchema(db, None, "message", _COLUMNS)
        self.deliver = deliver
        self._said = False

    def context(self, message: Message) -> dict[str, Any] | None:
        """The context that the message sets; None for an ordinary message."""
        if message.prefix != CONTEXT:
            return None
        found = _json_object(message.content) if message.transactional else None
        if found is None and not self._said:
            self._said = True
            log.warning(
                "a message with prefix %s is not taken as context: it must be transactional and"
                " its content a JSON object (said once)",
                CONTEXT,
            )
        return found

    def change(self, message: Message) -> Images:
        """The row that an event for the message holds."""
        names = (column.name for column in _COLUMNS)
        values = (message.prefix, message.content, message.transactional)
        return Images(after=dict(zip(names, values, strict=True)))


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(content.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and not _deep(value) else None


def _deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEPTH):
        level = [part for outer in level for part in _parts(outer)]
        if not level:
            return False
    return True


def _parts(value: Any) -> list[Any]:
    """The objects and arrays directly inside of one."""
    values = value.values() if isinstance(value, dict) else value
    return [part for part in values if isinstance(part, dict | list)]


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
