"""Names, templates and frames, without a server."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetstream import ORDERS, events, table
from tailrace.errors import PermanentError
from tailrace.event import Event, Position, Transaction
from tailrace.formats import Message
from tailrace.row import Images
from tailrace.template import Template
from tailrace.values import rfc3339
from tailrace_nats.frames import Framer, header_ids, header_value
from tailrace_nats.subjects import (
    Subjects,
    covers,
    escape,
    overlap,
    shapes,
    stream_name,
    template,
    to_cover,
    unescape,
)

NAMES = st.text(max_size=63) | st.text(alphabet=".*> \r\n\t\0%\x7fé_", max_size=20)

IDENTIFIERS = (
    st.text(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=63
    )
    | st.text(".*> \r\n\t%\x7fé_$", min_size=1, max_size=31)
).filter(lambda name: len(name.encode()) <= 63)


@given(NAMES)
def test_n08_any_name_is_one_token_and_comes_back(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_%-]+", escape(name))
    assert unescape(escape(name)) == name


@settings(deadline=None)
@given(IDENTIFIERS, IDENTIFIERS, IDENTIFIERS)
def test_n08_every_identifier_of_postgresql_comes_back_from_subject_and_headers(
    db: str, schema: str, name: str
) -> None:
    """63 bytes of anything but NUL, in a database, a schema and a table."""
    [event] = events(1, of=table(name, schema, db=db))
    framer = Framer(Subjects("cdc.{db}.{schema}.{table}", {}, "p"))
    message = Message(b"", (event,), headers={"X-Table": event.table.label})
    [(words, headers, _)] = _frames(framer.frames([message], header_ids([message]), [""]))
    assert len(words) == 4
    assert [unescape(token) for token in words[1].decode().split(".")] == ["cdc", db, schema, name]
    lines = dict(line.split(": ", 1) for line in headers.decode("ascii").split("\r\n")[1:-2])
    assert unescape(lines["Tailrace-Table"]) == unescape(lines["X-Table"]) == f"{schema}.{name}"


@given(NAMES)
def test_a_header_value_is_one_line_and_comes_back(text: str) -> None:
    assert re.fullmatch(r"[!-~]*", header_value(text))
    assert text == "" or unescape(header_value(text)) == text


def test_escaping_leaves_ordinary_names_alone() -> None:
    assert escape("Order_lines-2") == "Order_lines-2"
    assert escape("a.b é") == "a%2Eb%20%C3%A9"
    assert header_value("public.orders") == "public.orders"


def _frames(data: bytes) -> list[tuple[list[bytes], bytes, bytes]]:
    """What a server reads: line, headers and body of each frame, by the lengths alone."""
    found = []
    while data:
        line, _, data = data.partition(b"\r\n")
        words = line.split(b" ")
        head, whole = int(words[-2]), int(words[-1])
        found.append((words, data[:head], data[head:whole]))
        assert data[whole : whole + 2] == b"\r\n"
        data = data[whole + 2 :]
    return found


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES, NAMES | st.none(), NAMES, NAMES, st.binary(max_size=50))))
def test_n08_nothing_in_a_name_an_id_or_a_body_can_split_a_frame(
    rows: list[tuple[str, str | None, str, str, bytes]],
) -> None:
    messages = []
    for name, schema, id, position, body in rows:
        change = Images(key={"id": 1}, after={"id": 1})
        transaction = Transaction(Position(position), 0)
        event = Event(id, "u", table(name, schema, db=name), change, transaction)
        messages.append(Message(body, (event,), headers={"X-Note": position}))
    framer = Framer(Subjects("cdc.{db}.{schema}.{table}.{op}", {}, "p"))
    replies = [f"_INBOX.r.{n} " for n in range(len(messages))]
    found = _frames(framer.frames(messages, header_ids(messages), replies))
    assert len(found) == len(rows)
    for n, ((words, headers, body), (name, schema, id, position, sent)) in enumerate(
        zip(found, rows, strict=True)
    ):
        assert (words[0], words[2]) == (b"HPUB", b"_INBOX.r.%d" % n)
        tokens = [unescape(t) for t in words[1].decode().split(".")]
        assert tokens == ["cdc", name, *([] if schema is None else [schema]), name, "u"]
        lines = headers.decode("ascii").split("\r\n")
        assert lines[0] == "NATS/1.0"
        assert lines[-2:] == ["", ""]
        assert [unescape(line.partition(": ")[2]) for line in lines if line[:3] in ("Nat", "X-N")]
        assert lines[1] == f"Nats-Msg-Id: {header_value(id)}"
        assert lines[-3] == f"X-Note: {header_value(position)}"
        assert len(lines) == 9
        assert body == sent


def test_frames_of_two_transactions_tables_and_ops() -> None:
    """What is built once for several messages is built anew where it changes."""
    sent = [
        *events(2, per_transaction=1),
        *events(1, start=2, of=table("items"), op="c"),
        *events(1, start=3, of=table("items"), op="d"),
    ]
    messages = [Message(b"{}", (event,)) for event in sent]
    framer = Framer(Subjects("cdc.{table}.{op}", {}, "p"))
    found = _frames(framer.frames(messages, header_ids(messages), [""] * 4))
    assert [words[1] for words, _, _ in found] == [
        b"cdc.orders.u",
        b"cdc.orders.u",
        b"cdc.items.c",
        b"cdc.items.d",
    ]
    positions = [re.search(rb"Position: (.*)\r", headers) for _, headers, _ in found]
    assert [p and p[1] for p in positions] == [b"0/0", b"0/1", b"0/0", b"0/0"]


def test_a_message_for_several_events_has_the_last_ones_id() -> None:
    assert header_ids([Message(b"", events(3))]) == ["pg:1:0/0:2"]


def test_size_is_what_the_frame_says() -> None:
    [message] = [Message(b"x" * 33, events(1), headers={"A": "b c"})]
    framer = Framer(Subjects("cdc.{table}", {}, "p"))
    ids = header_ids([message])
    [(words, _, _)] = _frames(framer.frames([message], ids, [""]))
    assert framer.size(message, ids[0]) == int(words[-1])


def test_a_header_that_is_none_is_an_error() -> None:
    framer = Framer(Subjects("cdc.{table}", {}, "p"))
    message = Message(b"", events(1), headers={"a\r\nb": "c"})
    with pytest.raises(PermanentError, match="is not the name of a header"):
        framer.frames([message], ["1"], [""])


def test_a_subject_too_long_for_a_protocol_line_is_an_error() -> None:
    framer = Framer(Subjects("cdc.{table}", {}, "p"))
    message = Message(b"", events(1, of=table("é" * 700)))
    with pytest.raises(PermanentError, match="4204 characters"):
        framer.frames([message], ["1"], [""])


def test_commit_time() -> None:
    assert rfc3339(1_700_000_000_000_007) == "2023-11-14T22:13:20.000007Z"
    assert rfc3339(-1) == "1969-12-31T23:59:59.999999Z"


@pytest.mark.parametrize(
    ("pattern", "shape", "expected"),
    [
        ("cdc.>", "cdc.>", True),
        (">", "cdc.>", True),
        ("cdc.shop.>", "cdc.>", False),
        ("cdc.*", "cdc.>", False),
        ("cdc.*", "cdc.orders", True),
        ("cdc.orders", "cdc.*", False),
        ("cdc.>", "cdc", False),
    ],
)
def test_covers(pattern: str, shape: str, expected: bool) -> None:
    assert covers(pattern, shape) is expected


@pytest.mark.parametrize(
    ("text", "cover"),
    [
        ("cdc.{db}.{schema}.{table}", "cdc.>"),
        ("cdc.all", "cdc.all"),
        ("cdc.x-{db}.y", "cdc.>"),
        ("{name}.{table}", "my%2Epipe.>"),
        ("cdc.{name}", "cdc.my%2Epipe"),
        ("{db}.{table}", None),
        ("x{db}.{table}", None),
    ],
)
def test_what_a_new_stream_listens_to(text: str, cover: str | None) -> None:
    assert to_cover(template(text), "my.pipe") == cover


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("cdc.*.*.*", "cdc.>", True),
        ("cdc.*.*", "cdc.*.*.*", False),
        ("cdc.*.*", "cdc.shop.*", True),
        ("cdc.a", "cdc.b", False),
        ("cdc.a", "cdc.a", True),
        ("cdc", "cdc.>", False),
        ("*.>", "cdc.a.b", True),
    ],
)
def test_overlap(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) is expected
    assert overlap(other, one) is expected


def test_shapes_with_and_without_a_schema() -> None:
    assert shapes(template("cdc.{db}.{schema}.{table}"), "p") == ("cdc.*.*.*", "cdc.*.*")


@pytest.mark.parametrize(
    "text", ["cdc..{table}", ".{table}", "cdc.", "cdc.{table}.>", "cdc.*", "a b.{table}", "é", ""]
)
def test_illegal_subjects(text: str) -> None:
    with pytest.raises(ValueError, match="a subject has no"):
        template(text)


def test_stream_name() -> None:
    assert stream_name("my.Pipe-1") == "my_Pipe-1"
    assert stream_name("") == "cdc"


@pytest.mark.parametrize(
    ("text", "with_schema", "without"),
    [
        ("cdc.{db}.{schema}.{table}", "cdc.shop.public.orders", "cdc.shop.orders"),
        ("{schema}.{table}", "public.orders", "orders"),
        ("{table}.{schema}", "orders.public", "orders"),
        ("{db}{schema}.{table}", "shoppublic.orders", "shop.orders"),
        ("cdc.{schema}{table}", "cdc.publicorders", "cdc.orders"),
        ("/{schema}/{table}", "/public/orders", "/orders"),
        ("{schema}", "public", ""),
        ("{{{name}}}-{op}", "{p}-u", "{p}-u"),
        ("plain", "plain", "plain"),
    ],
)
def test_templates(text: str, with_schema: str, without: str) -> None:
    parsed = Template(text)
    assert parsed.render(ORDERS, "u", "p") == with_schema
    assert parsed.render(table("orders", schema=None), "u", "p") == without


@pytest.mark.parametrize("text", ["{tabel}", "{}", "{0}", "{table!r}", "{table:x}", "{db.x}"])
def test_unknown_fields_are_named_with_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match=r"unknown field \{.*\{name\} \{db\} \{schema\} \{table\}"):
        Template(text)


@pytest.mark.parametrize("text", ["{table", "table}"])
def test_an_open_brace_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="a brace is not closed"):
        Template(text)


def test_escape_is_applied_to_values_only() -> None:
    assert Template("a/{table}", str.upper).render(ORDERS, "u", "p") == "a/ORDERS"
    assert Template("{db}").fields == {"db"}
