"""PostgreSQL 15 from Debian's packages: the one with TLS and contrib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from servers import debian
from tailrace_demo.servers import Postgres

_BIN = "usr/lib/postgresql/15/bin"
_OURS = {"jit": "off"}  # LLVM is not unpacked


class Postgres15(Postgres):
    """As `Postgres`; `root` is where it is unpacked, ``/`` if it is installed.

    Raises ConfigError if there is none.
    """

    def __init__(
        self, folder: Path, *, settings: Mapping[str, str] = {}, root: Path | None = None
    ) -> None:
        self._root = root or debian.root_of("postgresql-15", f"{_BIN}/postgres")
        super().__init__(folder, settings={**_OURS, **settings}, bin=self._root / _BIN)

    def _readable_bin(self, folder: Path) -> Path:
        root = debian.readable(self._root, self._account, folder)
        self._environment = debian.environment(root)
        return root / _BIN
