"""A pgBouncer of one's own before a PostgreSQL server, from Debian's package."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

import psycopg

from servers import debian
from tailrace_demo.processes import Account, ServerProcess
from tailrace_demo.servers import Postgres, Server

_PROGRAM = "usr/sbin/pgbouncer"
_SETTINGS = {"listen_addr": "127.0.0.1", "unix_socket_dir": "", "auth_type": "any"}


class PgBouncer(Server):
    """Leads every database to `upstream`, as the user `postgres`, whoever one says to be.

    `settings` go over our own, as text of the section ``[pgbouncer]``. Raises ConfigError if there
    is no pgBouncer. As root it runs as `nobody`.
    """

    def __init__(self, folder: Path, upstream: Postgres, settings: Mapping[str, str] = {}) -> None:
        super().__init__(folder, None)
        self.settings = dict(settings)
        self._upstream = upstream
        self._account = Account.unprivileged()
        self._root = debian.root_of("pgbouncer", _PROGRAM)

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def stop(self) -> None:
        self._end(signal.SIGINT)

    def _spawn(self) -> ServerProcess:
        root = debian.readable(self._root, self._account, self.folder)
        conf = self.folder / "pgbouncer.ini"
        conf.write_text(self._configuration())
        return ServerProcess(
            [str(root / _PROGRAM), str(conf)],
            self.log,
            self._account,
            environment=debian.environment(root),
        )

    def _configuration(self) -> str:
        upstream = f"host=127.0.0.1 port={self._upstream.port} user=postgres"
        settings = {**_SETTINGS, "listen_port": str(self.port), **self.settings}
        lines = [f"{key} = {value}" for key, value in settings.items()]
        return "\n".join(["[databases]", f"* = {upstream}", "[pgbouncer]", *lines, ""])

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.dsn, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True
