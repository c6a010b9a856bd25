"""``cdc check`` of what is made by hand, kept by standbys, or partitioned."""

from __future__ import annotations

import re

import psycopg

from findings import carry_out, said, the, troubles
from pipelines import sql
from postgres.checking import checked
from tailrace.connector import Finding

TABLE = "CREATE TABLE t (id int PRIMARY KEY)"
MAKE = "SELECT pg_create_logical_replication_slot('test', 'pgoutput')"


def unwell(dsn: str, *subjects: str) -> list[Finding]:
    findings = checked(dsn, create="false", failover="true")
    return [finding for finding in troubles(findings) if finding.subject in subjects]


def test_what_is_made_by_hand(database: str) -> None:
    sql(database, TABLE)
    for subject in ("publication", "slot"):
        missing = the("error", subject, checked(database, create="false", failover="true"))
        assert "source.create is false" in missing.text
        carry_out(database, missing)
    assert not unwell(database, "publication", "slot", "failover")
    sql(database, 'CREATE TABLE "Other" (id int PRIMARY KEY)')
    lacking = the("error", "publication", checked(database, create="false", failover="true"))
    assert "lacks public.Other, and source.create is false" in lacking.text
    carry_out(database, lacking)
    assert not unwell(database, "publication", "slot", "failover")


def test_a_slot_of_which_standbys_are_to_have_a_copy(database: str) -> None:
    sql(database, TABLE, MAKE)
    assert said("failover", checked(database)) == "off: a standby lacks the slot"
    bare = the("warning", "failover", checked(database, failover="true"))
    assert bare.mend
    [command] = re.findall(r'-c "(.*);"', bare.mend)
    with psycopg.connect(f"{database}?replication=database", autocommit=True) as replication:
        replication.execute(command.encode())
    assert said("failover", checked(database, failover="true")) == "on: standbys have the slot too"


def test_partitioned_tables(database: str) -> None:
    sql(
        database,
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)",
    )
    unmatched = the("error", "tables", checked(database, tables="public.p"))
    assert unmatched.mend == "name its partitions, or set source.partitions=root"
    assert "1 captured: public.p1" in said("tables", checked(database))
    assert "1 captured: public.p" in said("tables", checked(database, partitions="root"))
