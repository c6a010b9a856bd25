"""PostgreSQL and NATS servers of one's own, on free ports of 127.0.0.1, in a folder.

Synchronous. Each is a context manager; leaving it ends the server at once. The folder is the
caller's to remove.
"""

from __future__ import annotations

import atexit
import shutil
import signal
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tailrace.errors import ConfigError, PermanentError
from tailrace_demo.packages import MEND, copy_postgres, nats_binary, postgres_bin
from tailrace_demo.processes import Account, ServerProcess, free_port

_MODES = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_SETTINGS = {
    "wal_level": "logical",
    "max_wal_senders": "40",
    "max_replication_slots": "40",
    "max_connections": "100",
    "unix_socket_directories": "",
    # Files of the data folder, so that a killed server leaves nothing in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
}


class Server(ABC):
    """A server that may be stopped and started again, with its data, on the same port."""

    def __init__(self, folder: Path, port: int | None) -> None:
        self.folder = folder
        self.port = port if port is not None else free_port()
        self.log = folder / "server.log"
        self._process: ServerProcess | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """Of the server's first process."""
        if self._process is None:
            raise PermanentError("the server is not running", mend="call start() first")
        return self._process.pid

    def start(self) -> None:
        """Start it, on its old data if there is some, and wait until it takes connections."""
        if self.running:
            return
        self._end(signal.SIGKILL)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = self._spawn()
        try:
            self._process.wait_until(self._answers)
        except BaseException:
            self._end(signal.SIGKILL)
            raise

    def kill(self) -> None:
        """SIGKILL; returns once every process of the server is gone."""
        self._end(signal.SIGKILL)

    @abstractmethod
    def _spawn(self) -> ServerProcess: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    def _end(self, number: signal.Signals, harder: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.end(number, harder)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(signal.SIGQUIT)


class Postgres(Server):
    """PostgreSQL 18 or 16 with ``wal_level=logical``; the user `postgres` needs no password.

    `settings` go over our own; change them and `restart` to try others. `bin` is a folder with
    the binaries of another PostgreSQL. As root it runs as `nobody`, and where `nobody` cannot go
    into `folder` the data lies in a temporary folder, gone with this process.
    """

    def __init__(
        self,
        folder: Path,
        *,
        version: int = 18,
        settings: Mapping[str, str] = {},
        port: int | None = None,
        bin: Path | None = None,
    ) -> None:
        super().__init__(folder, port)
        self.bin = bin or postgres_bin(version)
        self.settings = dict(settings)
        self._account = Account.unprivileged()
        self._data: Path | None = None
        self._server_bin: Path | None = None
        self._environment: Mapping[str, str] | None = None

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def stop(self, mode: str = "fast") -> None:
        """Shut it down: `smart`, `fast` or `immediate`; at once if that takes too long."""
        self._end(_MODES[mode], harder=signal.SIGQUIT)

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def _spawn(self) -> ServerProcess:
        if self._data is None:
            self._data = self._place()
        if self._server_bin is None:
            self._server_bin = self._readable_bin(self._data.parent)
        if not (self._data / "PG_VERSION").exists():
            self._initialise(self._server_bin, self._data)
        self._configure(self._data)
        command = [str(self._server_bin / "postgres"), "-D", str(self._data)]
        return ServerProcess(
            command, self.log, self._account, orphaned="QUIT", environment=self._environment
        )

    def _place(self) -> Path:
        """A data folder of the server's account."""
        for parent in (self.folder, None):
            if parent is None:
                parent = Path(tempfile.mkdtemp(prefix="tailrace-postgres-"))
                parent.chmod(0o711)
                atexit.register(shutil.rmtree, parent, ignore_errors=True)
            data = parent / "postgres"
            data.mkdir(mode=0o700, exist_ok=True)
            self._account.owns(data)
            if self._account.enters(data):
                return data
        raise ConfigError(
            f"the user `nobody` cannot go into {tempfile.gettempdir()}",
            mend="set TMPDIR to a folder that every user may enter",
        )

    def _readable_bin(self, folder: Path) -> Path:
        try:
            if self._account.run(str(self.bin / "postgres"), "--version").returncode == 0:
                return self.bin
        except PermissionError:
            pass
        return copy_postgres(self.bin, folder)

    def _initialise(self, bin: Path, data: Path) -> None:
        options = ("-U", "postgres", "-A", "trust", "--locale=C", "-E", "UTF8", "--no-sync")
        command = (str(bin / "initdb"), "-D", str(data), *options)
        done = self._account.run(*command, environment=self._environment)
        if done.returncode != 0:
            raise PermanentError(f"initdb failed:\n{done.stdout.strip()}")
        with (data / "postgresql.conf").open("a") as conf:
            conf.write("include 'tailrace.conf'\n")

    def _configure(self, data: Path) -> None:
        own = {"listen_addresses": "127.0.0.1", "port": str(self.port)}
        lines = [
            "{} = '{}'\n".format(key, value.replace("'", "''"))
            for key, value in {**_SETTINGS, **own, **self.settings}.items()
        ]
        conf = data / "tailrace.conf"
        conf.write_text("".join(lines))
        self._account.owns(conf)

    def _answers(self) -> bool:
        try:
            import psycopg
        except ImportError as error:
            raise ConfigError("psycopg is not installed", mend=MEND) from error
        try:
            psycopg.connect(self.dsn, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


class Nats(Server):
    """NATS with JetStream; streams are files in `folder`. `config` is text for its configuration
    file and may say anything but the address and the store.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: str = "",
        port: int | None = None,
        binary: Path | None = None,
    ) -> None:
        super().__init__(folder, port)
        self.config = config
        self._binary = binary or nats_binary()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _spawn(self) -> ServerProcess:
        conf = self.folder / "nats.conf"
        conf.write_text(self.config)
        command = [str(self._binary), "-c", str(conf), "-a", "127.0.0.1", "-p", str(self.port)]
        command += ["-js", "-sd", str(self.folder / "nats")]
        return ServerProcess(command, self.log, Account(), orphaned="TERM")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                return connection.recv(5) == b"INFO "
        except OSError:
            return False
