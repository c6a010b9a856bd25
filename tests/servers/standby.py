"""A PostgreSQL standby of a server of our own, made with pg_basebackup."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import psycopg

from tailrace.errors import PermanentError
from tailrace_demo.servers import Postgres

_REPLAY_SECONDS = 30.0


class Standby(Postgres):
    """Streams from `primary` through the physical slot `standby`, which it makes there.

    The primary must run when this is started for the first time.
    """

    def __init__(
        self, folder: Path, primary: Postgres, *, settings: Mapping[str, str] = {}
    ) -> None:
        super().__init__(folder, bin=primary.bin, settings={**primary.settings, **settings})
        self._primary = primary

    def _initialise(self, bin: Path, data: Path) -> None:
        conninfo = self._primary.dsn
        options = ("--write-recovery-conf", "--checkpoint=fast", "--create-slot", "--slot=standby")
        done = self._account.run(
            str(bin / "pg_basebackup"), "--pgdata", str(data), "--dbname", conninfo, *options
        )
        if done.returncode != 0:
            raise PermanentError(f"pg_basebackup failed:\n{done.stdout.strip()}")

    def catch_up(self) -> None:
        """Wait until everything that the primary has written is replayed."""
        with psycopg.connect(self._primary.dsn, autocommit=True) as primary:
            [(end,)] = primary.execute("SELECT pg_current_wal_insert_lsn()::text").fetchall()
        deadline = time.monotonic() + _REPLAY_SECONDS
        with psycopg.connect(self.dsn, autocommit=True) as standby:
            query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            while not standby.execute(query, [end]).fetchall()[0][0]:
                assert time.monotonic() < deadline, "the standby does not catch up"
                time.sleep(0.02)

    def promote(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as standby:
            standby.execute("SELECT pg_promote()")
