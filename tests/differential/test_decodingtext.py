"""The reader of test_decoding's text reads what test_decoding writes (PostgreSQL 15)."""

from __future__ import annotations

import pytest

from differential.decodingtext import Left, Told, change, transactions


def test_an_insert() -> None:
    told = change(
        'table public."T ""x": INSERT: id[integer]:1 b[boolean]:true n[numeric]:NaN'
        " t[text]:'it''s \n new-tuple: x[text]:''y''' tags[integer[]]:'{1,NULL}'"
        " \"select\"[double precision]:1e+100 bits[bit]:B'101' gone[text]:null"
    )
    assert told == Told(
        "c",
        [("public", 'T "x')],
        None,
        {
            "id": ("integer", "1"),
            "b": ("boolean", "true"),
            "n": ("numeric", "NaN"),
            "t": ("text", "it's \n new-tuple: x[text]:'y'"),
            "tags": ("integer[]", "{1,NULL}"),
            "select": ("double precision", "1e+100"),
            "bits": ("bit", "101"),
            "gone": ("text", None),
        },
    )


def test_an_update_with_and_without_the_old_row() -> None:
    told = change("table a.t: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 n[text]:''")
    assert told.old == {"id": ("integer", "1")}
    assert told.new == {"id": ("integer", "2"), "n": ("text", "")}
    told = change("table a.t: UPDATE: id[integer]:2 n[text]:unchanged-toast-datum")
    assert told.old is None
    assert told.new == {"id": ("integer", "2"), "n": ("text", Left.OUT)}


def test_a_text_that_reads_like_a_mark() -> None:
    told = change("table a.t: UPDATE: a[text]:'null' b[text]:'unchanged-toast-datum' c[text]:null")
    assert told.new is not None
    assert [text for _, text in told.new.values()] == ["null", "unchanged-toast-datum", None]


def test_a_delete_and_a_truncate() -> None:
    told = change("table a.t: DELETE: id[bigint]:7")
    assert (told.op, told.old, told.new) == ("d", {"id": ("bigint", "7")}, None)
    told = change('table a.t, "B".u: TRUNCATE: restart_seqs cascade')
    assert (told.op, told.tables) == ("t", [("a", "t"), ("B", "u")])


def test_transactions_without_a_change_are_left_out() -> None:
    lines = ["BEGIN 7", "COMMIT 7", "BEGIN 8", "table a.t: INSERT: id[integer]:1", "COMMIT 8"]
    [told] = transactions(lines)
    assert (told.xid, len(told.changes)) == ("8", 1)


@pytest.mark.parametrize(
    "line",
    ["table a.t: INSERT: id[integer]:1 rest", "table a.t: UPSERT: id[integer]:1", "message: x"],
)
def test_what_it_does_not_know_it_refuses(line: str) -> None:
    with pytest.raises(AssertionError):
        change(line)
