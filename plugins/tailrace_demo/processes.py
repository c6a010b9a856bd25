"""A server as a child process: started under an account, awaited, ended with us if we are killed.

A watcher (a shell that waits for the end of a pipe that only we hold) ends the server when this
process dies without doing so. PR_SET_PDEATHSIG would do it on Linux alone, and would fire as soon
as the *thread* that started the server ends.
"""

from __future__ import annotations

import os
import pwd
import random
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tailrace.errors import PermanentError

START_SECONDS = 60.0
STOP_SECONDS = 30.0
# Below the ports that systems give to outgoing connections: a client that tries again and again
# while a server is down must not be given the server's port.
PORTS = range(20_000, 32_000)

_WATCH = 'read -r pid && { read -r end; kill -s "$0" "$pid"; } 2>/dev/null'


@dataclass(frozen=True)
class Account:
    """Whom a server runs as; None stands for ourselves."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None

    @classmethod
    def unprivileged(cls) -> Account:
        """Ourselves, or `nobody` if we are root."""
        if os.geteuid() != 0:
            return cls()
        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid, ())

    def owns(self, path: Path) -> None:
        """Give it `path`."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def run(
        self, *command: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this account, to its end."""
        return subprocess.run(
            command,
            cwd="/",
            env=environment,
            user=self.uid,
            group=self.gid,
            extra_groups=self.groups,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def enters(self, folder: Path) -> bool:
        """Whether it may work in `folder`, through all of the folders above."""
        return self.run("/bin/sh", "-c", 'cd "$0"', str(folder)).returncode == 0


class ServerProcess:
    """A running server; `orphaned` is the signal that ends it if we die first."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        account: Account,
        *,
        orphaned: str = "TERM",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = command
        self.log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, orphaned],
            cwd="/",
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        # Every process of the server inherits the writing end, so its end is the end of them all.
        self._alive, inherited = os.pipe()
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    command,
                    cwd="/",
                    env=environment,
                    user=account.uid,
                    group=account.gid,
                    extra_groups=account.groups,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(inherited,),
                    start_new_session=True,
                )
        except BaseException:
            self._release()
            raise
        finally:
            os.close(inherited)
        assert self._watcher.stdin is not None
        self._watcher.stdin.write(f"{self._process.pid}\n")
        self._watcher.stdin.flush()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_until(self, answers: Callable[[], bool]) -> None:
        """Wait until the server answers; PermanentError with its log if it ends or takes long."""
        deadline = time.monotonic() + START_SECONDS
        while not answers():
            self.check()
            if time.monotonic() > deadline:
                raise self.failure(f"did not answer within {START_SECONDS:.0f} s")
            time.sleep(0.02)

    def check(self) -> None:
        """PermanentError, with the end of its log, if it runs no more."""
        if not self.running:
            raise self.failure(f"ended with status {self._process.returncode}")

    def end(self, number: signal.Signals, harder: signal.Signals = signal.SIGKILL) -> None:
        """Signal the server and return once all of its processes are gone."""
        for attempt in (number, harder, signal.SIGKILL):
            with suppress(ProcessLookupError):
                self._process.send_signal(attempt)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
                break
        select.select([self._alive], [], [], STOP_SECONDS)
        self._release()

    def _release(self) -> None:
        os.close(self._alive)
        self._watcher.kill()
        self._watcher.communicate()

    def failure(self, what: str) -> PermanentError:
        """An error that says `what` the server did, and how its log ends."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            said = log.read().decode(errors="replace").strip().splitlines()[-15:]
        text = "\n".join(f"    {line}" for line in said)
        return PermanentError(f"{Path(self._command[0]).name} {what}; its log ends with\n{text}")


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    choose = random.SystemRandom()
    while True:
        port = choose.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
