"""S01: a password is in nothing that `cdc` prints, logs, or shows to other users."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from e2e.command import Cdc
from pipelines import sql
from postgres.secured import CERTS, KEY_PASSWORD, PASSWORD, private, verified

CANARY = "c4nary-wr0ng"
FORMATS = pytest.mark.parametrize("log_format", ["text", "json"])


def pipeline(folder: Path) -> Cdc:
    """It takes its dsn from the environment, so that it is on no command line."""
    keys = ("source.publication=test", "sink=file", "sink.path=events.jsonl")
    return Cdc(folder, "${DSN}", *keys, name="shop")


def said(folder: Path, dsn: str, log_format: str, status: int) -> str:
    """Everything that a run prints, with the tracebacks."""
    with pipeline(folder) as cdc:
        cdc.start("--once", "-v", "--log-format", log_format, DSN=dsn)
        assert cdc.wait() == status, cdc.said
        if log_format == "json":
            assert [json.loads(line) for line in cdc.said.splitlines()]
        return cdc.said


@FORMATS
@pytest.mark.parametrize("password", [CANARY, f"{CANARY} with ' and \" and \\ and @"])
def test_s01_a_wrong_password(shop: str, tmp_path: Path, log_format: str, password: str) -> None:
    text = said(tmp_path, make_conninfo(shop, user="app", password=password), log_format, 2)
    assert "password authentication failed" in text
    assert CANARY not in text


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://u:with space {CANARY}@127.0.0.1/db",
        f"postgresql://u:a@{CANARY}@127.0.0.1/db",
        f"host=127.0.0.1 password={CANARY} x",
        f"host=127.0.0.1 port={CANARY}",
    ],
)
def test_s01_a_dsn_that_is_none(tmp_path: Path, dsn: str) -> None:
    text = said(tmp_path, dsn, "text", 2)
    assert "not a PostgreSQL connection string" in text
    assert CANARY not in text


def test_s01_the_password_of_a_key(shop: str, tmp_path: Path) -> None:
    key = private("client-locked.key", tmp_path)
    dsn = verified(shop, user="client", sslcert=CERTS / "client.pem", sslkey=key)
    text = said(tmp_path, make_conninfo(dsn, sslpassword=CANARY), "text", 2)
    assert "could not load private key file" in text
    assert CANARY not in text
    text = said(tmp_path, make_conninfo(dsn, sslpassword=KEY_PASSWORD), "text", 0)
    assert KEY_PASSWORD not in text


@FORMATS
def test_s01_while_it_runs(shop: str, tmp_path: Path, log_format: str) -> None:
    """Its own log, what it delivers and saves, and what other users of machine and server see."""
    dsn = make_conninfo(shop, user="app", password=PASSWORD)
    with pipeline(tmp_path) as cdc:
        cdc.start("-v", "--log-format", log_format, DSN=dsn)
        cdc.until_said("created replication slot")
        assert PASSWORD not in command_lines(cdc.process.pid)
        shown = sql(shop, "SELECT string_agg(a::text, ' ') FROM pg_stat_activity a")
        assert PASSWORD not in str(shown)
        sql(
            shop,
            "ALTER ROLE app NOLOGIN",
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'app'",
        )
        try:
            cdc.until_said("is not permitted to log in")
        finally:
            sql(shop, "ALTER ROLE app LOGIN")
        cdc.until_said("works again")
        cdc.stop()
    for file in tmp_path.iterdir():
        assert PASSWORD.encode() not in file.read_bytes(), file


def command_lines(pid: int) -> str:
    """Of the process and of its children."""
    if not Path(f"/proc/{pid}/cmdline").exists():
        pytest.skip("needs /proc")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return " ".join(Path(f"/proc/{each}/cmdline").read_text() for each in [str(pid), *children])
