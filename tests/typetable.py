"""Every type of a PostgreSQL catalogue, with values at its edges, as columns of one wide table.

Values are input literals. `table` makes the columns: for each type one of its own, and one of its
array type with all of the values, several dimensions and odd lower bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

DIGITS = "1" * 1000 + ".5"
TINY = "-0." + "0" * 16_382 + "1"
CONTROLS = "".join(map(chr, range(1, 32))) + "\x7f\x80\x85\x9f"
TEXTS = (
    *("", "a", "NULL", "null", "\\N", "it's", 'say "x"', "back\\slash", "{a,b}", "(c);<d>", "%s"),
    *(" pad ", "tab\t\r\n", CONTROLS, "\u2028\u2029\ufeff", "äöü €", "\x80\xa0\xff", "\uffff"),
    *("\U0001f980\U0010ffff", "e\u0301", "\x1b[31mred", '{"a": [1, null]}', "x" * 300, "ü" * 9000),
)
DOCUMENTS = (
    *('{"a" :  1.0}', "null", '"\\ud800"', '"ü\\u0000\\u2028\u2028\U0001f980"', "1e400", "-0.0"),
    *('{"a":1,"a":2,"b":{"a":1,"a":2}}', '\t{\n"a":\r\n\t[1, 2]}\r\n', "9" * 5000, DIGITS, " 1 "),
    *("[]", "{}", '""', "0.10", "[" * 200 + "]" * 200, '{"ключ":"\\n\\/"}'),
)


def each(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


class Type(NamedTuple):
    """`name` as in CREATE TABLE; `since` the first version that takes the values."""

    name: str
    logical: str
    values: tuple[str, ...]
    since: int = 14
    delimiter: str = ","


NUMBERS = [
    Type("boolean", "bool", ("true", "false")),
    Type("smallint", "int16", ("0", "-32768", "32767")),
    Type("integer", "int32", ("0", "-2147483648", "2147483647")),
    Type("bigint", "int64", ("0", "-9223372036854775808", "9223372036854775807")),
    Type("oid", "uint32", ("0", "4294967295")),
    Type("xid", "uint32", ("0", "4294967295")),
    Type("cid", "uint32", ("0", "4294967295")),
    Type("xid8", "uint64", ("0", "18446744073709551615")),
    Type(
        "real",
        "float32",
        each("0, -0, 0.1, 1e-45, 3.4028235e38, 16777217, 1e20, NaN, inf, -inf"),
    ),
    Type(
        "double precision",
        "float64",
        each("0, -0, 0.1, 5e-324, 1.7976931348623157e308, 2.2250738585072014e-308, 1e15, 1e16")
        + each("123456789012345680, -1.5, NaN, Infinity, -Infinity"),
    ),
    Type(
        "numeric",
        "decimal",
        (*each("0, -0.00, 1.50, 1e30, NaN, Infinity, -Infinity"), DIGITS, "9" * 131_072, TINY),
    ),
    Type("numeric(10,2)", "decimal(10,2)", ("1.5", "-7", "NaN", "99999999.99")),
    Type("numeric(5,-2)", "decimal(5,-2)", ("12345", "9999900"), 15),
    Type("numeric(3,5)", "decimal(3,5)", ("0.00999", "-0.00001"), 15),
    Type("money", "other", ("0", "1234.56", "-92233720368547758.08", "92233720368547758.07")),
    Type("bit(4)", "bit", ("1010", "0000")),
    Type("bit varying", "bit", ("", "101", "01" * 100)),
]

STRINGS = [
    Type("text", "string", TEXTS),
    Type("varchar(9000)", "string", TEXTS),
    Type("char(5)", "string", ("ab", 'ü"\\', "", "\U0001f980")),
    Type('"char"', "string", ("a", "", "\\", '"', "é")),
    Type("name", "string", ("n", 'it\'s "ü"', "x" * 63)),
    Type("refcursor", "string", ("c 1", 'a"\n')),
    Type("bytea", "bytes", ("", "\\x00ff5c", "\\x" + bytes(range(256)).hex() * 20)),
    Type("uuid", "uuid", ("0" * 32, "f" * 32, "00112233-4455-6677-8899-AABBCCDDEEFF")),
    Type("json", "json", DOCUMENTS),
    Type("jsonb", "json", tuple(d for d in DOCUMENTS if "\\ud" not in d and "\\u0000" not in d)),
    Type("jsonpath", "other", ('$."a b"[*] ? (@ > 1)', "strict $", '$."\\n\\u2028"')),
    Type("tsvector", "other", ("b a:1", "'it''s':2A 'ü \\\\':3", "")),
    Type("tsquery", "other", ("a & !b:*A", "'it''s' <-> c")),
]

TIMES = [
    Type(
        "date",
        "date",
        each("2026-11-24, 0001-01-01, 9999-12-31, 10000-01-01, 5874897-12-31, 0044-03-15 BC")
        + each("4714-11-24 BC, infinity, -infinity"),
    ),
    Type("time", "time", ("00:00:00", "12:00:00.1", "23:59:59.999999", "24:00:00")),
    Type("time(3)", "time", ("01:02:03.1239", "24:00:00")),
    Type(
        "timetz",
        "other",
        ("12:00:00+05:30", "12:00:00+05:30:15", "24:00:00-15:59:59", "00:00:00.123456+00"),
    ),
    Type(
        "timestamp",
        "timestamp",
        each("2026-11-24 01:02:03, 2026-11-24 01:02:03.123456, 9999-12-31 23:59:59.999999")
        + each("0001-01-01 00:00:00.1, 10000-01-01 00:00:00, 294276-12-31 23:59:59.999999")
        + each("0044-03-15 00:00:00 BC, 0044-03-15 00:00:00.123 BC, 4714-11-24 00:00:00 BC")
        + each("infinity, -infinity"),
    ),
    Type("timestamp(0)", "timestamp", ("2026-11-24 01:02:03.6", "infinity")),
    Type(
        "timestamptz",
        "timestamptz",
        each("2026-11-24 01:02:03+02, 2026-11-24 01:02:03.5Z, 2026-11-24 01:02:03.123456Z")
        + each("2026-11-24 01:02:03+05:30:15, 0001-01-01 00:00:00Z, 10000-01-01 00:00:00Z")
        + each("9999-12-31 23:59:59.999999Z, 294276-12-31 23:59:59.999999Z, infinity, -infinity")
        + each("0044-03-15 00:00:00Z BC, 0044-03-15 00:00:00.123Z BC"),
    ),
    Type(
        "interval",
        "interval",
        each("0, 1 year 2 mons -3 days 04:05:06.789, -00:00:01.5, 178000000 years")
        + each("-178000000 years, 2562047788:00:54.775807"),
    ),
    Type("interval day", "interval", ("infinity", "-infinity", "1 day"), 17),
]

NETWORKS_AND_SHAPES = [
    Type("inet", "other", ("10.0.0.1", "::1/64", "255.255.255.255/0")),
    Type("cidr", "other", ("10.0.0.0/8", "2001:db8::/32")),
    Type("macaddr", "other", ("08:00:2b:01:02:03",)),
    Type("macaddr8", "other", ("08:00:2b:01:02:03:04:05",)),
    Type("point", "other", ("(1,2.5)", "(NaN,Infinity)", "(-0,1e-300)")),
    Type("line", "other", ("{1,-1,0}", "{0,-0.1,1e300}")),
    Type("lseg", "other", ("[(0,0),(1,0.1)]",)),
    Type("box", "other", ("(3,4),(1,2)", "(NaN,1),(0,-inf)"), delimiter=";"),
    Type("path", "other", ("[(0,0),(1,1)]", "((0,0),(1,1),(2,0))")),
    Type("polygon", "other", ("((0,0),(1,1),(2,0))",)),
    Type("circle", "other", ("<(1,2),0.1>",)),
]

SYSTEM = [
    Type("tid", "other", ("(4294967295,65535)", "(0,0)")),
    Type("pg_lsn", "other", ("0/0", "FFFFFFFF/FFFFFFFF")),
    Type("pg_snapshot", "other", ("10:20:10,14,15", "1:1:")),
    Type("txid_snapshot", "other", ("10:20:10,14,15",)),
    Type("int2vector", "other", ("1 -2 3", "")),
    Type("oidvector", "other", ("1 4294967295",)),
    Type("aclitem", "other", ("postgres=r*w/postgres", "=U/postgres")),
    Type("regclass", "other", ("pg_class", 'public."Odd "" name"', "0", "4294967295")),
    Type("regtype", "other", ("integer", "public.mood", "public.pair[]")),
    Type("regproc", "other", ("now", "0")),
    Type("regprocedure", "other", ("abs(integer)", "public.own(text,public.mood)")),
    Type("regoper", "other", ("||/",)),
    Type("regoperator", "other", ("+(integer,integer)",)),
    Type("regrole", "other", ("postgres",)),
    Type("regnamespace", "other", ("public", '"json_like"')),
    Type("regconfig", "other", ("simple", "english")),
    Type("regdictionary", "other", ("simple",)),
    Type("regcollation", "other", ('"C"', "default")),
]

RANGES = [
    Type("int4range", "other", ("[1,5)", "empty", "(,)", "[5,)")),
    Type("int8range", "other", ("[1,9223372036854775807)",)),
    Type("numrange", "other", ("[1.50,2.000]", f"({DIGITS},)", "[-Infinity,NaN]")),
    Type("daterange", "other", ("[2026-01-01,infinity]", "[4714-11-24 BC,)")),
    Type("tsrange", "other", ('["0044-03-15 00:00:00 BC",infinity)', "(,2026-11-24)")),
    Type("tstzrange", "other", ('["2026-11-24 01:02:03+05:30",)', "(-infinity,10000-01-01Z]")),
    Type("int4multirange", "other", ("{}", "{[1,2),[5,)}")),
    Type("int8multirange", "other", ("{[1,2)}",)),
    Type("nummultirange", "other", ("{[1.50,2.0],(3,NaN]}",)),
    Type("datemultirange", "other", ("{[2026-01-01,infinity)}",)),
    Type("tsmultirange", "other", ('{["0044-03-15 00:00:00 BC",infinity)}',)),
    Type("tstzmultirange", "other", ('{["2026-11-24 01:02:03+05:30",)}',)),
    Type("floatrange", "other", ("[-0,0.1]", "[-inf,NaN]")),
    Type("textrange", "other", ('["a,b","c""d\\\\ü")', '("",)')),
    Type("textmultirange", "other", ('{["a,b","c""d\\\\ü"),[z,)}',)),
]

OWN = [
    Type("mood", "enum", ("sad", 'he said "hi", {x}', "größer", "NULL")),
    Type("json_like.text", "enum", ("t",)),
    Type("json_like.json", "other", ("(x)", '("{\n""a"":1}")')),
    Type("positive", "int32", ("1", "2147483647")),
    Type("more_positive", "int32", ("7",)),
    Type("amount", "decimal(10,2)", ("1.5", "NaN")),
    Type("document", "json", ('{"a" :  1.0}', "null")),
    Type("feeling", "enum", ("sad", 'he said "hi", {x}')),
    Type("tags", "array(string)", ('{a,NULL,"NULL",""}', "{}", "[0:1]={a,b}", "{{a},{b}}")),
    Type("amounts", "array(decimal(10,2))", ("{1.5,NULL,NaN}",)),
    Type("pair", "other", ('(1,"a,""b")', "(,)", '(7,"ü\\\\\n")')),
    Type("couple", "other", ('(1,"a,""b")',)),
    Type("nest", "other", ('("(1,a)","{""(1,x)"",NULL}",sad,7,"{""a b""}")', "(,,,,)")),
]

DDL = """
CREATE SCHEMA json_like;
CREATE TYPE mood AS ENUM ('sad', 'he said "hi", {x}', 'größer', 'NULL');
CREATE TYPE json_like.text AS ENUM ('t');
CREATE TYPE pair AS (n int, t text);
CREATE TYPE json_like.json AS (t text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN more_positive AS positive CHECK (VALUE > 1);
CREATE DOMAIN amount AS numeric(10,2);
CREATE DOMAIN document AS json;
CREATE DOMAIN feeling AS mood;
CREATE DOMAIN tags AS text[];
CREATE DOMAIN amounts AS amount[];
CREATE DOMAIN couple AS pair;
CREATE TYPE nest AS (p pair, ps pair[], m mood, d positive, ts tags);
CREATE TYPE floatrange AS RANGE (subtype = float8);
CREATE TYPE textrange AS RANGE (subtype = text, collation = "C");
CREATE TABLE "Odd "" name" ();
CREATE FUNCTION own(text, mood) RETURNS int LANGUAGE sql AS 'SELECT 1'
"""

TYPES = [*NUMBERS, *STRINGS, *TIMES, *NETWORKS_AND_SHAPES, *SYSTEM, *RANGES, *OWN]

WITHOUT_INPUT = {"gtsvector", "pg_node_tree", "pg_ndistinct", "pg_dependencies", "pg_mcv_list"}
WITHOUT_INPUT |= {"pg_brin_bloom_summary", "pg_brin_minmax_multi_summary"}


class Column(NamedTuple):
    """A column of the wide table; `literals` are its values, one a row."""

    name: str
    type: str
    logical: str
    literals: tuple[str, ...]


def columns(types: Sequence[Type], version: int) -> list[Column]:
    made = []
    for number, type in enumerate(type for type in types if type.since <= version):
        name, logical = f"{number:03d}", type.logical
        made.append(Column("c" + name, type.name, logical, type.values))
        if not logical.startswith("array("):
            made.append(Column("a" + name, f"{type.name}[]", f"array({logical})", arrays(type)))
    return made


def arrays(type: Type) -> tuple[str, ...]:
    """One with all values and a null, an empty one, several dimensions, odd lower bounds."""
    items = [quoted(value) for value in type.values]
    first, last = items[0], items[-1]

    def braced(*inner: str) -> str:
        return "{" + type.delimiter.join(inner) + "}"

    return (
        braced(*items, "NULL"),
        "{}",
        braced(braced(first, "NULL"), braced(last, first)),
        braced(braced(braced(first, last))),
        "[-1:0]=" + braced(first, last),
        "[1:1][0:0]=" + braced(braced(last)),
    )


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def create(made: list[Column]) -> str:
    listed = ", ".join(f"{column.name} {column.type}" for column in made)
    return f"CREATE TABLE t (id int PRIMARY KEY, {listed})"


def rows(made: list[Column]) -> list[list[str | None]]:
    """The literals row by row; a column that has no more is null."""
    count = max(len(column.literals) for column in made)
    return [[dict(enumerate(c.literals)).get(n) for c in made] for n in range(count)]
