"""Plugins: found by entry point, loaded by name, and none that is broken hurts another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tailrace
from tailrace.errors import ConfigError
from tailrace.registry import Registry

GOOD = """
from tailrace import hookimpl

@hookimpl
def tailrace_register(register):
    register.sink("{name}", connector="{module}_sink:Sink", config="{module}_sink:Config")
"""
SINK = """
from tailrace.config import PluginConfig
from tailrace.connector import Sink as Base

class Config(PluginConfig):
    place: str = "here"

class Sink(Base):
    Config = Config
    async def write(self, batch): ...
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a distribution with one entry point into a folder on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(distribution: str, name: str, module: str, **files: str) -> None:
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
        )
        (info / "entry_points.txt").write_text(f"[tailrace]\n{name} = {module}\n")
        for each, text in files.items():
            (tmp_path / f"{each}.py").write_text(text)

    return add


def good(install: Install, name: str = "pigeon", module: str = "pigeon_plugin") -> None:
    files = {module: GOOD.format(name=name, module=module), f"{module}_sink": SINK}
    install(f"tailrace-{name}", name, module, **files)


def test_public_names_are_all_there() -> None:
    assert all(getattr(tailrace, name) is not None for name in tailrace.__all__)
    assert sorted(tailrace._ROOM_OF) == sorted(tailrace.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = tailrace.nothing


def test_importing_tailrace_imports_nothing_else() -> None:
    heavy = ("pydantic", "click", "rich", "msgspec", "pluggy")
    code = f"import sys, tailrace; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_our_own_plugins_are_found_and_loaded_by_name() -> None:
    registry = Registry()
    found = {entry.name: entry.distribution for entry in registry.available()}
    assert {"postgres", "nats", "stdout", "file", "json", "sqlite", "memory"} <= found.keys()
    assert [offer.kind for offer in registry.offers("file")] == ["sink", "store"]
    assert registry.offer("sink", "stdout").load().__name__ == "StdoutSink"
    assert registry.offer("format", "json").config.__name__ == "JsonConfig"


def test_asking_for_one_plugin_imports_no_other() -> None:
    code = (
        "import sys; from tailrace.registry import Registry; r = Registry(); r.available();"
        "before = [m for m in sys.modules if m.startswith('tailrace_')];"
        "r.offer('source', 'postgres').config;"
        "print(before, [m for m in ('psycopg', 'nats', 'tailrace_nats') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"


def test_a_plugin_from_elsewhere_is_found(install: Install) -> None:
    good(install)
    registry = Registry()
    (entry,) = [entry for entry in registry.available() if entry.name == "pigeon"]
    assert (entry.origin, entry.module) == ("tailrace-pigeon 1.2", "pigeon_plugin")
    assert "pigeon_plugin" not in sys.modules
    offer = registry.offer("sink", "pigeon")
    assert offer.config().place == "here"
    assert offer.load().__name__ == "Sink"


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("def f(:", "SyntaxError"),
        ("from bird_plugin import nothing", "ImportError"),
        ("import tailrace.never", "No module named 'tailrace.never'"),
        (GOOD.format(name="owl", module="bird_plugin"), "it offers 'owl'"),
        ("from tailrace import hookimpl\n@hookimpl\ndef tailrace_register(x): ...", "Plugin"),
    ],
)
def test_a_broken_plugin_is_named_and_hurts_no_other(
    install: Install, monkeypatch: pytest.MonkeyPatch, code: str, fault: str
) -> None:
    monkeypatch.delitem(sys.modules, "bird_plugin", raising=False)
    install("bird", "bird", "bird_plugin", bird_plugin=code)
    registry = Registry()
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            registry.offer("sink", "bird")
        assert "plugin 'bird' of bird 1.2 does not load: " in caught.value.message
        assert fault in caught.value.message
    assert registry.offer("sink", "stdout")
    with pytest.raises(ConfigError) as caught:
        registry.offer("sink", "stdot")
    assert caught.value.mend is not None
    assert "'stdout'" in caught.value.mend
    assert "bird" not in caught.value.mend


def test_a_missing_driver_is_an_installation_away(install: Install) -> None:
    install("bird", "bird", "driven_plugin", driven_plugin="import feathers.wing")
    with pytest.raises(ConfigError) as caught:
        Registry().offer("sink", "bird")
    assert "needs the module 'feathers', which is not installed" in caught.value.message
    assert caught.value.mend == "pip install bird"


def test_nobody_takes_the_name_of_one_of_ours(install: Install) -> None:
    good(install, "stdout", "cuckoo_plugin")
    assert Registry().offer("sink", "stdout").load().__name__ == "StdoutSink"


def test_broken_metadata_hurts_no_other(tmp_path: Path, install: Install) -> None:
    install("bird", "bird", "bird_plugin")
    (tmp_path / "bird-1.2.dist-info" / "entry_points.txt").write_bytes(b"[tailrace]\n\xff = x\n")
    assert Registry().offer("sink", "stdout")
