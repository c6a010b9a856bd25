"""Frames: the bytes of many messages at once. Pure; the hot path of the sink.

One ``HPUB`` frame a message. Of its headers only the id varies within a transaction, a table and
an op, so the rest is built once for each of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from tailrace.errors import PermanentError
from tailrace.event import Event
from tailrace.formats import Message
from tailrace.schema import TableSchema
from tailrace.values import rfc3339
from tailrace_nats.subjects import LONGEST, Subjects

_CRLF = b"\r\n"
_UNSAFE = re.compile(rb"[^!-$&-~]")
_SAFE = re.compile(r"[!-$&-~]*")
_KEY = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CACHED = 10_000


def header_value(text: str) -> str:
    """`text` as a header's value: spaces, %, control and non-ASCII characters as %XX of UTF-8."""
    if _SAFE.fullmatch(text):
        return text
    data = text.encode("utf-8", "surrogatepass")
    return _UNSAFE.sub(lambda m: b"%%%02X" % m[0][0], data).decode()


def header_ids(messages: Sequence[Message]) -> list[str]:
    """For each message the id of its last event, as a header's value."""
    ids = [message.events[-1].id for message in messages]
    if not _SAFE.fullmatch("".join(ids)):
        ids = [header_value(text) for text in ids]
    return ids


class Framer:
    """Builds frames for one pipeline. Keeps what it knows of tables; holds nothing of a batch."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self._routes: dict[tuple[int, str], tuple[TableSchema, str, str]] = {}

    def frames(
        self, messages: Sequence[Message], ids: Sequence[str], replies: Iterable[str]
    ) -> bytes:
        """The frames of `messages`, to be written as they are.

        A reply is a subject and a space, or nothing. `ids` are those of `header_ids`; lines of
        further headers may follow an id.
        """
        parts: list[bytes] = []
        add = parts.append
        transaction = table = op = None
        headers: Mapping[str, str] | None = None
        head = tail = ""
        fixed = 0
        for message, id, reply in zip(messages, ids, replies, strict=False):
            event = message.events[-1]
            if (
                event.transaction is not transaction
                or event.table is not table
                or event.op != op
                or message.headers is not headers
            ):
                transaction, table, op = event.transaction, event.table, event.op
                headers = message.headers
                head, tail = self._around(event, headers)
                fixed = len("NATS/1.0\r\nNats-Msg-Id: ") + len(tail)
            body = message.body
            size = fixed + len(id)
            add(
                f"{head}{reply}{size} {size + len(body)}\r\n"
                f"NATS/1.0\r\nNats-Msg-Id: {id}{tail}".encode()
            )
            add(body)
            add(_CRLF)
        return b"".join(parts)

    def size(self, message: Message, id: str) -> int:
        """What the server weighs against its limits: headers and body, in bytes."""
        _, tail = self._around(message.events[-1], message.headers)
        return len("NATS/1.0\r\nNats-Msg-Id: ") + len(id) + len(tail) + len(message.body)

    def subject(self, event: Event) -> str:
        """The subject that the event goes to."""
        return self._route(event)[1].removeprefix("HPUB ").rstrip()

    def _around(self, event: Event, headers: Mapping[str, str] | None) -> tuple[str, str]:
        """What stands before the reply, and what follows the id up to the body."""
        _, head, label = self._route(event)
        tail = (
            f"\r\nTailrace-Table: {label}\r\nTailrace-Op: {event.op}"
            f"\r\nTailrace-Position: {header_value(event.position)}"
            f"\r\nTailrace-Time: {rfc3339(event.transaction.ts)}\r\n"
        )
        if headers:
            tail += "".join(f"{_key(k)}: {header_value(v)}\r\n" for k, v in headers.items())
        return head, f"{tail}\r\n"

    def _route(self, event: Event) -> tuple[TableSchema, str, str]:
        found = self._routes.get((id(event.table), event.op))
        if found is not None and found[0] is event.table:
            return found
        if len(self._routes) >= _CACHED:
            self._routes.clear()
        subject = self._subjects.of(event.table, event.op)
        if len(subject) > LONGEST:
            raise PermanentError(
                f"the subject of {event.table.label} has {len(subject)} characters; "
                f"a server takes {LONGEST}",
                mend="use fewer names in sink.subject (or sink.subjects.*)",
            )
        route = (event.table, f"HPUB {subject} ", header_value(event.table.label))
        self._routes[id(event.table), event.op] = route
        return route


def _key(text: str) -> str:
    if not _KEY.fullmatch(text):
        raise PermanentError(f"{text!r} is not the name of a header", mend="choose another format")
    return text
