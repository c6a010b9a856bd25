"""``cdc check`` of settings and limits that belong to the whole server: on a server of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from findings import carry_out, said, the, troubles
from pipelines import sql
from postgres.checking import checked
from servers.found import missing, server_folder
from tailrace.errors import ConfigError
from tailrace_demo.servers import Postgres
from tailrace_postgres.check import capacity

SETTINGS = {
    "fsync": "off",
    "max_prepared_transactions": "2",
    "max_slot_wal_keep_size": "100GB",
    "wal_level": "replica",
    "max_replication_slots": "1",
    "max_wal_senders": "1",
}
PUT_BACK = (
    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots",
    "ALTER SYSTEM RESET ALL",
    "SELECT pg_reload_conf()",
)


@pytest.fixture(scope="module")
def strict(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    """A server that begins with everything too small."""
    with server_folder() as folder:
        try:
            server = Postgres(folder, settings=SETTINGS)
        except ConfigError as error:
            missing(pytestconfig, error)
        with server:
            sql(
                server.dsn,
                "CREATE TABLE t (id int PRIMARY KEY)",
                "CREATE PUBLICATION test FOR TABLE t",
            )
            yield server


@pytest.fixture
def server(strict: Postgres) -> Iterator[Postgres]:
    """The same with enough of everything, and without slots."""
    if strict.settings["wal_level"] != "logical":
        sql(strict.dsn, *PUT_BACK)
        strict.settings.update(wal_level="logical", max_replication_slots="9", max_wal_senders="9")
        strict.restart()
    yield strict
    sql(strict.dsn, *PUT_BACK)


def test_what_needs_a_restart(strict: Postgres) -> None:
    sql(strict.dsn, "SELECT pg_create_physical_replication_slot('standby')")
    with psycopg.connect(strict.dsn, replication="yes", application_name="walreceiver") as standby:
        findings = checked(strict.dsn)
    level = the("error", "wal_level", findings)
    slots = the("error", "max_replication_slots", findings)
    assert slots.text == "none of 1 free: standby"
    senders = the("error", "max_wal_senders", findings)
    assert senders.text == "none of 1 free: walreceiver"
    assert standby.closed
    for finding in (level, slots, senders):
        carry_out(strict.dsn, finding)
    strict.restart()
    assert troubles(checked(strict.dsn)) == []


def test_a_slot_of_our_own_needs_no_free_one(server: Postgres) -> None:
    fill = "SELECT pg_create_logical_replication_slot('n' || n, 'pgoutput')"
    sql(server.dsn, f"{fill} FROM generate_series(1, 9) n")
    assert the("error", "max_replication_slots", checked(server.dsn))
    assert said("max_replication_slots", checked(server.dsn, slot="n7")) == "0 of 9 free"


def test_how_long_the_kept_wal_lasts(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """With statistics of any age: a test does not wait for a minute of them."""
    monkeypatch.setattr(capacity, "SETTLED", 0)
    sql(server.dsn, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()")
    small = the("warning", "max_slot_wal_keep_size", checked(server.dsn))
    assert "at the average rate" in small.text
    carry_out(server.dsn, small)
    assert "at the average rate" in said("max_slot_wal_keep_size", checked(server.dsn))


@pytest.mark.parametrize(("value", "well"), [("1h", False), ("3d", True)])
def test_slots_that_end_when_idle(server: Postgres, value: str, well: bool) -> None:
    name = "idle_replication_slot_timeout"
    sql(server.dsn, f"ALTER SYSTEM SET {name} = '{value}'", "SELECT pg_reload_conf()")
    if not well:
        carry_out(server.dsn, the("warning", name, checked(server.dsn)))
        assert said(name, checked(server.dsn)) == "none"
    else:
        assert said(name, checked(server.dsn)).startswith("3d")


def test_slots_that_lost_their_wal(server: Postgres) -> None:
    make = "SELECT pg_create_logical_replication_slot('{}', 'pgoutput')"
    keep = "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'"
    write = ("INSERT INTO t SELECT max(id) + 1 FROM t", "SELECT pg_switch_wal()")
    sql(server.dsn, "INSERT INTO t VALUES (1)", make.format("test"), make.format("forgotten"))
    sql(server.dsn, keep, "SELECT pg_reload_conf()", *write * 3)
    soon = checked(server.dsn)
    assert "more and the slot is invalidated" in the("warning", "retained WAL", soon).text
    assert "it holds" in the("warning", "slot forgotten", soon).text
    sql(server.dsn, "CHECKPOINT")
    findings = checked(server.dsn)
    lost = the("error", "retained WAL", findings)
    assert "invalidated (wal_removed)" in lost.text
    forgotten = the("warning", "slot forgotten", findings)
    assert "serves nobody any more" in forgotten.text
    carry_out(server.dsn, lost)
    carry_out(server.dsn, forgotten)
    subjects = [finding.subject for finding in troubles(checked(server.dsn))]
    assert "retained WAL" not in subjects
    assert "slot forgotten" not in subjects


def test_a_prepared_transaction(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "LONG", 0)
    with psycopg.connect(server.dsn) as connection:
        connection.execute("INSERT INTO t VALUES (1000)")
        connection.execute("PREPARE TRANSACTION 'it''s'")
    prepared = the("warning", "transactions", checked(server.dsn))
    assert "prepared as it's" in prepared.text
    carry_out(server.dsn, prepared)
    assert said("transactions", checked(server.dsn))


def test_a_standby(server: Postgres) -> None:
    """Alone: nothing is streamed to it, but it is in recovery like any other."""
    [(folder,)] = sql(server.dsn, "SHOW data_directory")
    server.stop()
    signal = Path(folder) / "standby.signal"
    signal.touch()
    try:
        server.start()
        assert "a standby" in said("server", checked(server.dsn))
    finally:
        server.stop()
        signal.unlink()
        server.start()
    assert troubles(checked(server.dsn)) == []
