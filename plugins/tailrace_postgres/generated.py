"""Code that is generated for one shape of a relation: from a row's bytes to its change's JSON.

One function reads a pgoutput message with one new tuple, the other a line of COPY's text format.
Each finds the text of every column, makes JSON of it, and puts all into one f-string. What is not
plain (an unchanged TOAST column, an escape) and what is malformed goes to `slow`, the general way
of `decoder`, which says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from json.encoder import encode_basestring as quote
from struct import Struct as Layout
from struct import error as LayoutError
from typing import Any

from msgspec import Struct

from tailrace_postgres.types import Kind

NEW = 33
"""Where the columns of a message's only tuple begin: XLogData header (25), type, relation id,
tuple marker, number of columns."""

UNREADABLE = (IndexError, ValueError, ArithmeticError, LayoutError)
"""What reading a text that is not of its type, or cut off, may raise."""

uint32 = Layout("!I").unpack_from

ToJson = Callable[[bytes], str]

_SHORT = "t\0\0\0"
_COLUMN = """
        if s[i:i+4] == SHORT:
            i += 5; j = i + m[i-1]; v = s[i:j]; i = j; c{n} = {expression}
        elif m[i] == 110:
            i += 1; c{n} = "null"
        elif m[i] == 116:
            j = i + 5 + uint32(m, i + 1)[0]; v = s[i+5:j]; i = j; c{n} = {expression}
        else:
            return slow(m)
"""


class Shape(Struct, frozen=True):
    """What the code depends on: the columns' kinds and quoted names, and which are the key."""

    label: str
    kinds: Sequence[Kind]
    names: Sequence[str]
    key: Sequence[int]


def json_of_message(shape: Shape, slow: ToJson) -> ToJson:
    """The JSON members of the change that a message with one new tuple stands for."""
    low, high = len(shape.kinds) % 256, len(shape.kinds) // 256
    lines = [f"    i = {NEW}", "    try:"]
    lines.append(f"        if m[i-1] != {low} or m[i-2] != {high}: return slow(m)")
    for n, kind in enumerate(shape.kinds):
        lines.append(_COLUMN.format(n=n, expression=kind.inline.format(v="v", n=n)))
    lines += ["    except bad: return slow(m)", "    if i != len(m): return slow(m)"]
    return _function(shape, lines, slow, SHORT=_SHORT, uint32=uint32)


def json_of_line(shape: Shape, slow: ToJson) -> ToJson:
    """The JSON members of the row that a line of COPY stands for."""
    columns = [f"c{n}" for n in range(len(shape.kinds))]
    lines = ['    if "\\\\" in s and s.count("\\\\") != s.count(NULL): return slow(m)', "    try:"]
    lines.append(f'        [{", ".join(columns)}] = s[:-1].split("\\t")')
    for n, (column, kind) in enumerate(zip(columns, shape.kinds, strict=True)):
        expression = kind.inline.format(v=column, n=n)
        lines.append(f'        {column} = "null" if {column} == NULL else {expression}')
    lines.append("    except bad: return slow(m)")
    return _function(shape, lines, slow, NULL="\\N")


def _function(shape: Shape, lines: Sequence[str], slow: ToJson, **names: Any) -> ToJson:
    """`lines` as the middle of a function of ``m``, a row's bytes, and ``s``, its text."""
    scope = {"q": quote, "bad": UNREADABLE, "slow": slow, **names}
    scope |= {f"json{n}": kind.json for n, kind in enumerate(shape.kinds)}
    fast = ", ".join(f"{name}={name}" for name in scope)  # arguments are found faster than globals
    text = [f"def made(m, {fast}):", '    s = m.decode("latin-1")', *lines]
    text.append(f"    return f'{_members(shape)}'")
    exec(compile("\n".join(text), f"<decoder of {shape.label}>", "exec"), scope)  # noqa: S102
    made: ToJson = scope["made"]
    return made


def _members(shape: Shape) -> str:
    """The inside of an f-string over ``c0``, ``c1`` …: the JSON texts of the columns."""
    members = [f"{_literal(name)}:{{c{n}}}" for n, name in enumerate(shape.names)]
    key = ",".join(members[n] for n in shape.key)
    key = f"{{{{{key}}}}}" if key else "null"
    return f'"key":{key},"before":null,"after":{{{{{",".join(members)}}}}},"unavailable":[]'


def _literal(text: str) -> str:
    """`text` (latin-1) for the inside of an f-string in single quotes; any character is safe."""
    return "".join(_BRACES.get(char) or _plain(char) for char in text)


_BRACES = {"{": "{{", "}": "}}"}


def _plain(char: str) -> str:
    return (
        char
        if char.isascii() and char.isprintable() and char not in "'\\"
        else f"\\x{ord(char):02x}"
    )
