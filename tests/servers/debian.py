"""Programs from Debian's packages, unpacked into a cache folder. Nothing is installed.

apt keeps its lists in a temporary folder here, so that neither root nor anybody's earlier
``apt-get update`` is needed.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tailrace.errors import ConfigError
from tailrace_demo.processes import Account

_LIBRARY = re.compile(r"lib(?!llvm|z3|.*perl|.*-dev$)")
"""What is needed of the packages that apt would install besides: LLVM and Perl are not."""

_NOT_TO_RUN = shutil.ignore_patterns("bitcode", "doc", "locale", "man")


def root_of(package: str, program: str) -> Path:
    """``/`` if the program (a path without the leading ``/``) is installed, else `unpacked`."""
    return Path("/") if Path("/", program).exists() else unpacked(package)


def unpacked(package: str) -> Path:
    """A folder laid out like ``/`` with the package and the libraries that the system lacks.

    Unpacked once for each system, whoever comes first. Raises ConfigError where that cannot be.
    """
    try:
        system = platform.freedesktop_os_release()
    except OSError as error:
        raise _none(package, "this system is none of Debian's") from error
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tailrace"
    name = f"{system['ID']}-{system.get('VERSION_ID', 'testing')}-{platform.machine()}"
    root = cache / name / package
    root.parent.mkdir(parents=True, exist_ok=True)
    with _locked(root.with_suffix(".lock")):
        if not root.exists():
            _unpack(package, root)
    return root


def environment(root: Path) -> dict[str, str]:
    """In which a program of the folder finds its libraries."""
    libraries = [*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries))}


def readable(root: Path, account: Account, folder: Path) -> Path:
    """`root`, or a copy in `folder` if the account may not read it: it may lie in root's home."""
    if account.enters(root):
        return root
    copy = folder / root.name
    if not copy.exists():
        shutil.copytree(root, copy, symlinks=True, ignore=_NOT_TO_RUN)
    return copy


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack(package: str, root: Path) -> None:
    with tempfile.TemporaryDirectory(dir=root.parent) as name:
        work = Path(name)
        for part in ("lists/partial", "cache/archives/partial", "root"):
            (work / part).mkdir(parents=True)
        with suppress(ConfigError):  # one of several mirrors may be down, and another may do
            _apt(package, work, "update")
        _apt(package, work, "download", package, *_libraries(package, work))
        for archive in work.glob("*.deb"):
            _run(package, work, "dpkg", "-x", str(archive), "root")
        (work / "root").rename(root)


def _libraries(package: str, work: Path) -> list[str]:
    """The packages with libraries that installing `package` would bring to this system."""
    said = _apt(package, work, "install", "--simulate", "--no-install-recommends", package)
    names = re.findall(r"^Inst (\S+)", said, re.MULTILINE)
    return [name for name in names if name != package and _LIBRARY.match(name)]


def _apt(package: str, work: Path, *arguments: str) -> str:
    options = (f"Dir::State::lists={work}/lists", f"Dir::Cache={work}/cache")
    sandbox = "APT::Sandbox::User=root"  # the user _apt may not be able to enter the cache
    given = [word for option in (*options, sandbox) for word in ("-o", option)]
    return _run(package, work, "apt-get", "-qq", *given, *arguments)


def _run(package: str, work: Path, *command: str) -> str:
    try:
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise _none(package, f"there is no {command[0]}") from error
    if done.returncode != 0:
        raise _none(package, done.stderr.strip())
    return done.stdout


def _none(package: str, why: str) -> ConfigError:
    return ConfigError(
        f"Debian's package {package} is neither installed nor to be had: {why}",
        mend=f"install {package}, or run where apt-get reaches a Debian that has it",
    )
