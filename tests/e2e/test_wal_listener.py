"""wal-listener's recorded output, from PostgreSQL to JetStream, byte for byte."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from e2e.command import Cdc
from jetstream import make_stream, stored
from tailrace_demo.servers import Nats

RECORDED = Path(__file__).parents[1] / "recorded"
COMMIT = r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,5}[1-9])?Z"
LEFT_BEHIND = (
    'CREATE PUBLICATION "wal-listener" FOR ALL TABLES',
    "SELECT pg_create_logical_replication_slot('myslot_1', 'pgoutput')",
)
"""What wal-listener makes in a database."""

VARYING = re.compile(rf'^{{"id":"(?P<id>[^"]+)"|"commitTime":"(?P<time>{COMMIT})"}}$')

Make = Callable[..., Cdc]


def statements() -> tuple[list[str], list[str]]:
    """What makes the tables, and the transactions that were recorded."""
    tables, changes = (RECORDED / "wal-listener.sql").read_text().split("-- statements", 1)
    return tables.strip().splitlines(), changes.splitlines()[1:]


def normalised(body: str) -> str:
    """Without what differs from run to run; both are looked at, too."""
    found = list(VARYING.finditer(body))
    assert [match.lastgroup for match in found] == ["id", "time"], body
    return VARYING.sub("*", body)


def expected() -> list[tuple[str, str]]:
    """The recording; an unchanged TOAST column, which is null there, is left out by us."""
    lines = [
        json.loads(line) for line in (RECORDED / "wal-listener.jsonl").read_text().splitlines()
    ]
    bodies = [normalised(line["body"]) for line in lines]
    assert bodies[-1].count('"t":null,') == 1
    bodies[-1] = bodies[-1].replace('"t":null,', "")
    return [(line["subject"], body) for line, body in zip(lines, bodies, strict=True)]


def test_it_goes_on_where_wal_listener_stopped(cdc: Make, database: str, nats: Nats) -> None:
    pipeline = cdc(
        "source.slot=myslot_1", "source.publication=wal-listener", "snapshot=never",
        "format=wal-listener", "sink=nats", f"sink.url={nats.url}",
        "sink.stream=REC", "sink.subject=REC.app_{schema}_{table}",
    )  # fmt: skip
    asyncio.run(make_stream(nats.url, "REC", subjects=["REC.*"]))
    tables, changes = statements()
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in (*tables, *LEFT_BEHIND, *changes):
            connection.execute(statement.encode())
    pipeline.once()
    got = asyncio.run(stored(nats.url, "REC")).messages
    assert [(m.subject, normalised(m.data.decode())) for m in got] == expected()
    bodies: list[dict[str, Any]] = [json.loads(m.data) for m in got]
    assert len({body["id"] for body in bodies}) == len(bodies)
    assert {UUID(body["id"]).version for body in bodies} == {5}
    assert bodies[13]["commitTime"] == bodies[12]["commitTime"], "they are of one transaction"
