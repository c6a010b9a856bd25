"""The embedded servers keep their promises."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import nats as nats_client
import psycopg
import pytest

from servers import debian
from servers.found import missing
from servers.pgbouncer import PgBouncer
from servers.postgres15 import Postgres15
from tailrace.errors import ConfigError, PermanentError
from tailrace_demo.servers import Nats, Postgres

WAIT = 30.0
START_AND_STAY = """
import pathlib, sys, time
from tailrace_demo.servers import Nats, Postgres
folder = pathlib.Path(sys.argv[1])
servers = [Nats(folder / "nats"), Postgres(folder / "postgres")]
for server in servers:
    server.start()
print(*[server.pid for server in servers], flush=True)
time.sleep(600)
"""


def count(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*) FROM t").fetchone()
    assert row is not None
    return int(row[0])


def fill(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE t AS SELECT generate_series(1, 1000)")


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restart_keeps_data_and_address(postgres: Postgres, database: str, mode: str) -> None:
    fill(database)
    pid = postgres.pid
    postgres.restart(mode)
    assert postgres.pid != pid
    assert count(database) == 1000


def test_start_recovers_after_a_kill(postgres: Postgres, database: str) -> None:
    fill(database)
    with psycopg.connect(database) as held:
        postgres.kill()
        assert not postgres.running
        with pytest.raises(psycopg.OperationalError):
            held.execute("SELECT 1")
    postgres.start()
    assert count(database) == 1000


def test_postgres_16_decodes(postgres16: Postgres) -> None:
    with psycopg.connect(postgres16.dsn) as connection:
        assert connection.info.server_version // 10_000 == 16
        assert connection.execute("SHOW wal_level").fetchone() == ("logical",)


def test_postgres_15_has_contrib_and_tls(database15: str) -> None:
    with psycopg.connect(database15, autocommit=True) as connection:
        assert connection.info.server_version // 10_000 == 15
        for name in ("hstore", "citext", "ltree"):
            connection.execute(f"CREATE EXTENSION {name}".encode())
        connection.execute("SELECT pg_create_logical_replication_slot('t', 'test_decoding', true)")
        assert connection.execute("SHOW ssl_library").fetchone() == ("OpenSSL",)


def test_postgres_15_runs_unpacked(pytestconfig: pytest.Config, folder: Path) -> None:
    try:
        root = debian.unpacked("postgresql-15")
    except ConfigError as error:
        missing(pytestconfig, error)
    with (
        Postgres15(folder, root=root) as server,
        psycopg.connect(server.dsn, autocommit=True) as connection,
    ):
        connection.execute("CREATE EXTENSION hstore")
        assert connection.execute("SELECT 'a=>1'::hstore -> 'a'").fetchone() == ("1",)


def test_pgbouncer_leads_to_postgres(pgbouncer: PgBouncer, postgres: Postgres) -> None:
    with pgbouncer, psycopg.connect(pgbouncer.dsn) as connection:
        assert connection.execute("SHOW port").fetchone() == (str(postgres.port),)


def test_a_failed_start_shows_the_servers_log(embedded: Path) -> None:
    server = Postgres(embedded, settings={"wal_level": "wrong"})
    with pytest.raises(PermanentError, match='invalid value for parameter "wal_level"'):
        server.start()
    assert not server.running


def test_a_killed_nats_keeps_its_streams(nats: Nats) -> None:
    async def publish() -> int:
        client = await nats_client.connect(nats.url)
        jetstream = client.jetstream()
        await jetstream.add_stream(name="kept", subjects=["kept"])
        ack = await jetstream.publish("kept", b"1")
        await client.close()
        return ack.seq

    assert asyncio.run(publish()) == 1
    nats.kill()
    nats.start()
    assert asyncio.run(publish()) == 2


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has reaped yet does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_servers_die_with_a_killed_parent(embedded: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", START_AND_STAY, str(embedded)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + WAIT
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
