"""``cdc check`` of a PostgreSQL source: what is found, and that the mending step mends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from findings import carry_out, said, the, troubles
from pipelines import sql
from postgres.checking import a_role, as_role, checked
from postgres.secured import verified
from servers.pgbouncer import PgBouncer
from tailrace.connector import Finding
from tailrace_demo.processes import free_port
from tailrace_postgres.check import capacity, server, slot

TABLE = "CREATE TABLE t (id int PRIMARY KEY, note text)"


@pytest.fixture
def role(database: str) -> Iterator[str]:
    """A role that may replicate, and read the one table that is there."""
    sql(database, TABLE, "CREATE PUBLICATION test FOR TABLE t")
    with a_role(database) as name:
        sql(database, f"GRANT SELECT ON t TO {name}")
        yield name


@pytest.fixture(params=["database", "database16", "database15"])
def any_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh database of each version, on a server that is put back as it was."""
    dsn: str = request.getfixturevalue(request.param)
    yield dsn
    sql(dsn, "ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")


def test_a_sound_server_and_role(any_database: str) -> None:
    sql(any_database, TABLE, "CREATE PUBLICATION test FOR TABLE t")
    with a_role(any_database) as name:
        sql(any_database, f"GRANT SELECT ON t TO {name}")
        dsn = as_role(any_database, name)
        [unlimited] = troubles(checked(dsn))
        assert unlimited.subject == "max_slot_wal_keep_size"
        assert "unlimited" in unlimited.text
        carry_out(any_database, unlimited)
        findings = checked(dsn)
    assert troubles(findings) == []
    assert "loses its place" in said("max_slot_wal_keep_size", findings)
    assert "a primary" in said("server", findings)
    assert "public.t" in said("tables", findings)
    assert "test has every captured table" in said("publication", findings)
    assert "test is made at the first start" in said("slot", findings)
    assert "connected to the system" in said("replication", findings)


# -- the way there


def test_nobody_listens() -> None:
    [finding] = checked(f"postgresql://u@127.0.0.1:{free_port()}/db")
    assert finding.level == "error"
    assert finding.mend == "check host and port in source.dsn, and that the server runs"


def test_a_dsn_that_is_none() -> None:
    [finding] = checked("postgresql://u:s3cret@h:port/db")
    assert finding.level == "error"
    assert "s3cret" not in f"{finding}"


def test_a_pooler_in_the_way(database: str, pgbouncer: PgBouncer) -> None:
    sql(database, TABLE)
    with pgbouncer:
        findings = checked(make_conninfo(database, port=str(pgbouncer.port)))
    [refused] = [finding for finding in findings if finding.level == "error"]
    assert "leads to pgBouncer" in refused.text
    assert "name PostgreSQL itself" in str(refused.mend)


def test_encryption(shop: str) -> None:
    assert "is encrypted" in said("TLS", checked(verified(shop)))
    assert "not used" in said("TLS", checked(make_conninfo(shop, sslmode="disable")))


def test_a_way_that_is_open_to_others(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made up: what makes it so is tested where the connection is made."""
    monkeypatch.setattr(server, "exposure", lambda connection: "anybody can read along")
    assert "read along" in the("warning", "TLS", checked(database)).text


# -- the role


def test_a_role_without_replication(database: str, role: str) -> None:
    sql(database, f"ALTER ROLE {role} NOREPLICATION")
    refused = the("error", "role", checked(as_role(database, role)))
    carry_out(database, refused)
    findings = checked(as_role(database, role))
    assert f"{role} may replicate" in said("role", findings)


def test_a_member_of_rds_replication_may_replicate(database: str, role: str) -> None:
    """PostgreSQL has no such role: it stands for Amazon's, where the membership is enough."""
    sql(database, f"ALTER ROLE {role} NOREPLICATION", "CREATE ROLE rds_replication")
    try:
        sql(database, f"GRANT rds_replication TO {role}")
        assert said("role", checked(as_role(database, role)))
    finally:
        sql(database, "DROP ROLE rds_replication")


def test_tables_and_schemas_that_may_not_be_read(database: str, role: str) -> None:
    sql(
        database,
        'CREATE SCHEMA "Shop"',
        'CREATE TABLE "Shop"."Orders; --" (id int PRIMARY KEY)',
        f"REVOKE SELECT ON t FROM {role}",
        'ALTER PUBLICATION test ADD TABLE "Shop"."Orders; --"',
    )
    dsn = as_role(database, role)
    findings = checked(dsn)
    closed = the("error", "SELECT", findings)
    assert "Shop.Orders; --, public.t" in closed.text
    sql(database, str(closed.mend))
    usage = the("error", "USAGE", findings)
    assert "Shop" in usage.text
    carry_out(database, usage)
    assert said("SELECT", checked(dsn))


def test_only_what_the_backfill_reads_must_be_readable(database: str, role: str) -> None:
    sql(database, f"REVOKE SELECT ON t FROM {role}")
    dsn = as_role(database, role)
    for backfill in ((), ("public.other",)):
        assert not [f for f in checked(dsn, backfill=backfill) if f.subject == "SELECT"]


def test_row_security_that_hides_rows(database: str, role: str) -> None:
    sql(database, "ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    dsn = as_role(database, role)
    hidden = the("error", "row security", checked(dsn))
    assert "public.t" in hidden.text
    carry_out(database, hidden)
    assert said("SELECT", checked(dsn))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("wal_sender_timeout", "0"),
        ("wal_sender_timeout", "1s"),
        ("logical_decoding_work_mem", "64kB"),
        ("statement_timeout", "100ms"),
    ],
)
def test_settings_of_the_session(database: str, role: str, setting: str, value: str) -> None:
    sql(database, f"ALTER ROLE {role} SET {setting} = '{value}'")
    dsn = as_role(database, role)
    carry_out(dsn, the("warning", setting, checked(dsn)))  # needs nobody else's rights
    assert setting not in [finding.subject for finding in troubles(checked(dsn))]


def test_an_encoding_that_says_nothing(database: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    create = f"CREATE DATABASE {name}_ascii TEMPLATE template0 ENCODING 'SQL_ASCII'"
    sql(database, create)
    try:
        assert the("warning", "encoding", checked(f"{database}_ascii"))
    finally:
        sql(database, f"DROP DATABASE {name}_ascii WITH (FORCE)")


# -- tables


def unwell(dsn: str, subject: str, tables: str = "*.*") -> list[Finding]:
    found = troubles(checked(dsn, tables=tables))
    return [finding for finding in found if finding.subject == subject]


@pytest.mark.parametrize(
    ("ddl", "mend"),
    [
        ("CREATE TABLE t (n int)", "FULL"),
        ("CREATE TABLE t (n int UNIQUE)", "FULL"),
        ("CREATE TABLE t (n int NOT NULL UNIQUE DEFERRABLE)", "FULL"),
        ("CREATE TABLE t (n int PRIMARY KEY DEFERRABLE)", "FULL"),
        ("CREATE TABLE t (n int NOT NULL UNIQUE)", 'USING INDEX "t_n_key"'),
        (TABLE + "; ALTER TABLE t REPLICA IDENTITY NOTHING", "DEFAULT"),
        ("CREATE TABLE t (n int); ALTER TABLE t REPLICA IDENTITY NOTHING", "FULL"),
        (
            "CREATE TABLE t (n int NOT NULL); CREATE UNIQUE INDEX i ON t (n);"
            " ALTER TABLE t REPLICA IDENTITY USING INDEX i; DROP INDEX i",
            "FULL",
        ),
    ],
)
def test_updates_that_would_fail_for_everybody(database: str, ddl: str, mend: str) -> None:
    sql(database, *ddl.split(";"))
    [broken] = unwell(database, "public.t")
    assert broken.level == "error"
    assert "every UPDATE and DELETE of it fails" in broken.text
    sql(database, "CREATE PUBLICATION test FOR TABLE t", "INSERT INTO t VALUES (1)")
    update = "DELETE FROM t"
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        sql(database, update)
    assert str(broken.mend).endswith(f"{mend};")
    carry_out(database, broken)
    assert unwell(database, "public.t") == []
    sql(database, update)


def test_inserts_alone_need_no_identity(database: str) -> None:
    sql(database, "CREATE TABLE t (n int)")
    sql(database, "CREATE PUBLICATION test FOR TABLE t WITH (publish = 'insert, truncate')")
    assert unwell(database, "public.t") == []


def test_remarks_on_tables(database: str) -> None:
    sql(
        database,
        "CREATE TABLE whole (n int)",
        "ALTER TABLE whole REPLICA IDENTITY FULL",
        "CREATE TABLE other (n int NOT NULL UNIQUE)",
        "ALTER TABLE other REPLICA IDENTITY USING INDEX other_n_key",
        TABLE,
    )
    findings = checked(database)
    identity = said("replica identity", findings)
    assert "of public.whole" in identity
    assert "of public.other" in identity
    assert said("TOAST", findings).endswith("of public.t")
    assert said("no key", findings).endswith(": public.whole")


def test_tables_that_cannot_be_captured(database: str) -> None:
    sql(
        database,
        TABLE,
        "CREATE UNLOGGED TABLE fast (id int PRIMARY KEY)",
        "CREATE FOREIGN DATA WRAPPER w",
        "CREATE SERVER s FOREIGN DATA WRAPPER w",
        "CREATE FOREIGN TABLE far (id int) SERVER s",
    )
    fast = the("warning", "public.fast", checked(database))
    far = the("warning", "public.far", checked(database))
    assert "!public.far in source.tables" in str(far.mend)
    carry_out(database, fast)
    assert unwell(database, "public.fast") == []
    assert unwell(database, "public.far", tables="*.*, !public.far") == []


def test_patterns_that_match_nothing(database: str) -> None:
    nothing = the("error", "tables", checked(database))
    assert "no tables" in nothing.text
    sql(database, TABLE, "CREATE VIEW v AS SELECT * FROM t")
    [pattern, view] = unwell(database, "tables", tables="public.t, public.T, public.v")
    assert "no table matches public.T" in pattern.text
    assert "public.v, which is a view" in view.text


# -- publication


def test_a_publication_that_the_role_cannot_make(database: str, role: str) -> None:
    sql(database, "DROP PUBLICATION test")
    dsn = as_role(database, role)
    missing = the("error", "publication", checked(dsn))
    assert "does not own public.t" in missing.text
    carry_out(database, missing)
    assert said("publication", checked(dsn)) == "test has every captured table"


def test_a_publication_that_the_role_makes(database: str, role: str) -> None:
    sql(database, "DROP PUBLICATION test", f"ALTER TABLE t OWNER TO {role}")
    dsn = as_role(database, role)
    refused = the("error", "publication", checked(dsn))
    assert "create anything in the database" in refused.text
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    sql(database, f"GRANT CREATE ON DATABASE {name} TO {role}")
    assert "is made at the first start" in said("publication", checked(dsn))


def test_a_publication_that_lacks_a_table(database: str, role: str) -> None:
    sql(database, 'CREATE TABLE "Other" (id int PRIMARY KEY)')
    sql(database, f'GRANT SELECT ON "Other" TO {role}')
    assert "gets public.Other at the next start" in said("publication", checked(database))
    dsn = as_role(database, role)
    lacking = the("error", "publication", checked(dsn))
    assert "lacks public.Other" in lacking.text
    carry_out(database, lacking)
    assert said("publication", checked(dsn)) == "test has every captured table"


def test_a_publication_that_leaves_operations_out(each_database: str) -> None:
    publication = "CREATE PUBLICATION test FOR TABLE t WITH (publish = 'insert, delete')"
    sql(each_database, TABLE, publication)
    carry_out(each_database, the("warning", "publish", checked(each_database)))
    assert unwell(each_database, "publish") == []


@pytest.mark.parametrize(
    ("subject", "options"), [("row filter", "WHERE (id > 7)"), ("column list", "(id)")]
)
def test_a_publication_that_gives_less(each_database: str, subject: str, options: str) -> None:
    sql(each_database, TABLE, f"CREATE PUBLICATION test FOR TABLE t {options}")
    assert said(subject, checked(each_database)).endswith("of public.t")


# -- slot


@contextmanager
def ended_by_the_test(dsn: str, **options: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that the server may end meanwhile."""
    connection = psycopg.connect(dsn, autocommit=True, **options)  # type: ignore[arg-type]
    try:
        yield connection
    finally:
        with suppress(psycopg.Error):
            connection.close()


MAKE = "SELECT pg_create_logical_replication_slot('test', 'pgoutput')"


def test_a_slot_that_is_not_ours(database: str) -> None:
    sql(database, TABLE, "SELECT pg_create_physical_replication_slot('test')")
    [physical] = [f for f in checked(database) if f.level == "error"]
    assert "for physical replication" in physical.text
    sql(database, str(physical.mend).partition("or: ")[2])
    assert "is made" in said("slot", checked(database))


def test_a_slot_of_another_plugin(database15: str) -> None:
    sql(database15, TABLE, "SELECT pg_create_logical_replication_slot('test', 'test_decoding')")
    [foreign] = unwell(database15, "slot")
    assert "for the plugin test_decoding" in foreign.text


def test_a_slot_of_another_database(database: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    sql(database, TABLE, f"CREATE DATABASE {name}_2")
    try:
        sql(f"{database}_2", MAKE)
        [foreign] = unwell(database, "slot")
        assert f"of the database {name}_2" in foreign.text
        sql(f"{database}_2", str(foreign.mend).partition("or: ")[2])
        assert unwell(database, "slot") == []
    finally:
        sql(database, f"DROP DATABASE {name}_2 WITH (FORCE)")


def test_a_slot_that_somebody_else_reads(database: str) -> None:
    sql(database, TABLE, "CREATE PUBLICATION test FOR TABLE t", MAKE)
    for application, expected in (("cdc test", "ok"), ("pg_recvlogical", "warning")):
        options = {"replication": "database", "application_name": application}
        with ended_by_the_test(database, **options) as reader:
            reader.execute(
                b"START_REPLICATION SLOT test LOGICAL 0/0"
                b" (proto_version '1', publication_names 'test')"
            )
            finding = the(expected, "slot", checked(database))
            assert str(reader.info.backend_pid) in finding.text
            if expected == "warning":
                assert application in finding.text
                carry_out(database, finding)
                assert unwell(database, "slot") == []


def test_a_slot_that_decodes_at_prepare(database: str, database15: str) -> None:
    make = "SELECT pg_create_logical_replication_slot('test', 'pgoutput', false, true)"
    for dsn in (database, database15):
        sql(dsn, TABLE, make)
    carry_out(database15, the("error", "two_phase", checked(database15)))
    assert unwell(database15, "two_phase") == []
    altering = str(the("error", "two_phase", checked(database)).mend)
    command = altering.partition("-c ")[2].strip('"')
    with psycopg.connect(database, autocommit=True, replication="database") as connection:
        connection.execute(command.encode())
    assert unwell(database, "two_phase") == []


def test_a_slot_that_a_standby_lacks(database: str) -> None:
    for failover, text in (("false", "off"), ("true", "on")):
        sql(
            database,
            "SELECT pg_create_logical_replication_slot"
            f"('slot_{failover}', 'pgoutput', failover => {failover})",
        )
        assert said("failover", checked(database, slot=f"slot_{failover}")).startswith(text)


def test_slots_that_hold_much(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With much being anything: a test does not write a gigabyte."""
    for module in (capacity, slot):
        monkeypatch.setattr(module, "MUCH", -1)
    sql(database, TABLE, MAKE, MAKE.replace("test", "forgotten"))
    forgotten = the("warning", "slot forgotten", checked(database))
    assert "nobody reads from it since" in forgotten.text
    carry_out(database, forgotten)
    own = the("warning", "retained WAL", checked(database))
    sql(database, str(own.mend).partition("give it up: ")[2])
    assert unwell(database, "slot forgotten") == unwell(database, "retained WAL") == []


# -- transactions


def test_a_transaction_that_is_open(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "LONG", 0)
    sql(database, TABLE)
    with a_role(database) as role, ended_by_the_test(database) as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (1)")
        hidden = said("transactions", checked(as_role(database, role)))
        assert f"{role} may not see for how long" in hidden
        open_ = the("warning", "transactions", checked(database))
        assert f"process {writer.info.backend_pid}" in open_.text
        carry_out(database, open_)
        assert said("transactions", checked(database)).startswith("none")


def test_what_may_not_be_looked_at_hides_nothing_else(database: str, role: str) -> None:
    sql(database, "REVOKE SELECT ON pg_prepared_xacts FROM PUBLIC")
    findings = checked(as_role(database, role))
    assert "could not be looked at" in the("warning", "transactions", findings).text
    assert said("replication", findings)
