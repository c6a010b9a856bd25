"""The table of PostgreSQL's column types in docs/plugins/postgres.md, made by the converters."""

from __future__ import annotations

from tailrace.values import Json
from tailrace_postgres.types import BUILTIN, ENUM, EXTENSIONS, OTHER, Kind, array_kind, scalar_kind

HEAD = ("database type", "logical type", "Python", "JSON", "stays text")

_SQL_NAMES = {
    "bool": "boolean",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "varchar": "varchar(n)",
    "bpchar": "char(n)",
    "char": '"char"',
    "varbit": "bit varying",
}

_NO_NUMBER = ("NaN", "Infinity", "-Infinity")
_SAMPLES: dict[str, tuple[str, ...]] = {
    "bool": ("t",),
    "int16": ("-1",),
    "int32": ("-1",),
    "int64": ("-1",),
    "uint32": ("1",),
    "uint64": ("1",),
    "float32": ("0.1", *_NO_NUMBER),
    "float64": ("0.1", *_NO_NUMBER),
    "decimal": ("1.50", *_NO_NUMBER),
    "string": ("a",),
    "bytes": ("\\x00ff",),
    "date": ("2026-11-24", "infinity", "0044-03-15 BC", "10000-01-01"),
    "time": ("12:30:00.5", "24:00:00"),
    "timestamp": ("2026-11-24 12:30:00.5", "infinity", "0044-03-15 00:00:00 BC"),
    "timestamptz": ("2026-11-24 12:30:00.5+00", "infinity", "10000-01-01 00:00:00+00"),
    "interval": ("1 mon 2 days 03:04:05.6",),
    "uuid": ("00112233-4455-6677-8899-aabbccddeeff",),
    "json": ('{"a" : 1.0}',),
    "bit": ("101",),
}
"""By logical type an ordinary value as the database prints it, and such as stay text."""

_INTEGERS = array_kind(scalar_kind("int4"))
_NUMERIC = scalar_kind("numeric", (10 << 16 | 2) + 4)


def table() -> str:
    lines = [f"| {' | '.join(row)} |\n" for row in (HEAD, *_builtin(), *_made())]
    return "".join([lines[0], f"|{'---|' * len(HEAD)}\n", *lines[1:]])


def _builtin() -> list[tuple[str, ...]]:
    rows = []
    for logical in dict.fromkeys(kind.logical for kind in BUILTIN.values()):
        names = [name for name, kind in BUILTIN.items() if kind.logical == logical]
        listed = ", ".join(f"`{_SQL_NAMES.get(name, name)}`" for name in names)
        rows.append(_row(listed, BUILTIN[names[0]], *_SAMPLES[logical]))
    return rows


def _made() -> list[tuple[str, ...]]:
    """What users and extensions make."""
    extensions = ", ".join(f"`{name}`" for name in EXTENSIONS)
    return [
        _row("`numeric(10,2)`", _NUMERIC, "1.50", *_NO_NUMBER),
        _row(extensions, EXTENSIONS["citext"], "a"),
        _row("array, here `integer[]`", _INTEGERS, "{1,NULL}", "[0:1]={1,2}"),
        _row("array of two dimensions", _INTEGERS, "{{1,2},{3,4}}"),
        _row("enum", ENUM, "paid"),
        ("domain", "that of its base type", "", "", ""),
        _row("composite", OTHER, '(1,"a b")'),
        _row("range", OTHER, "[1,5)"),
        _row("multirange", OTHER, "{[1,5),[7,9)}"),
        _row("`hstore`", OTHER, '"a"=>"1"'),
        _row("every other type, here `inet`", OTHER, "10.0.0.1"),
    ]


def _row(name: str, kind: Kind, sample: str, *texts: str) -> tuple[str, ...]:
    for text in texts:
        if kind.python(text) != text:
            raise SystemExit(f"{kind.logical} does not keep {text} as text")
    value = kind.python(sample)
    shown = f"Json({value!r})" if isinstance(value, Json) else repr(value).replace("datetime.", "")
    cells = (name, kind.logical, f"`{shown}`", f"`{kind.json(sample)}`")
    return (*cells, ", ".join(f"`{text}`" for text in texts))
