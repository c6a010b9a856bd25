"""Credentials that the server does not take: exit status 2, the key, and never the secret."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from e2e.command import Cdc
from tailrace_demo.servers import Nats

nkeys = pytest.importorskip("nkeys")
CANARY = "c4nary-pa55word"
SEED = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode()
CREDENTIALS = (
    f"-----BEGIN NATS USER JWT-----\n{CANARY}\n------END NATS USER JWT------\n\n"
    f"-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (("sink.user=joe", f"sink.password={CANARY}"), "sink.user and sink.password: "),
        ((f"sink.token={CANARY}",), "sink.token: "),
        (("sink.nkey=user.nk",), "sink.nkey: "),
        (("sink.creds=user.creds",), "sink.creds: "),
        ((), "wants credentials"),
    ],
    ids=["password", "token", "nkey", "creds", "none"],
)
def test_wrong_credentials_end_with_status_2(
    configured: Callable[[str], Nats],
    database: str,
    tmp_path: Path,
    keys: tuple[str, ...],
    named: str,
) -> None:
    (tmp_path / "user.nk").write_text(SEED)
    (tmp_path / "user.creds").write_text(CREDENTIALS)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    server = configured('authorization { user: root, password: "another" }')
    with Cdc(tmp_path, database, "sink=nats", f"sink.url={server.url}", *keys) as pipeline:
        assert pipeline.start().wait() == 2, pipeline.said
    assert named in pipeline.said
    assert CANARY not in pipeline.said
    assert SEED not in pipeline.said
