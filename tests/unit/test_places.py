"""Every key may be given in every place, members of a family among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tailrace.cli.app import execute
from tailrace.cli.describing import keys
from tailrace.config import PipelineConfig
from tailrace.errors import ConfigError
from tailrace.keys import FAMILY, Key, keys_of
from tailrace.registry import Registry
from tailrace.resolve import resolve
from tailrace.settings import Settings, collect, parse_arguments, read_environment, read_file

CANARY = "canary-7f3a"
WHOLE = ["source=postgres", "source.dsn=postgresql://db/shop", "sink=stdout"]
CONDITION = "total >= 9.50 AND note <> 'a=b'"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def all_keys() -> list[Key]:
    registry = Registry()
    offers = [offer for entry in registry.available() for offer in registry.offers(entry.name)]
    return keys_of(PipelineConfig) + [key for offer in offers for key in keys(offer)]


@pytest.mark.parametrize("key", sorted({key.name for key in all_keys()}))
def test_every_key_in_every_place(key: str) -> None:
    name = key.replace(FAMILY, ".public.orders")
    variable = "CDC__" + name.upper().replace(".", "__")
    assert read_environment({variable: "x"}).values == {name: "x"}
    assert parse_arguments([f"{name}=x=y"]).values == {name: "x=y"}
    for written in (name, f'"{name}"'):
        Path("cdc.toml").write_text(f'[orders]\n{written} = "x"\n')
        assert read_file(Path("cdc.toml"))["orders"].values[name] == "x"


def conditions(settings: Settings) -> dict[str, str]:
    return resolve(settings, Registry(), drivers=False).pipeline.snapshot_where


@pytest.mark.parametrize("reference", ["${CONDITION}", "${file:condition.sql}", CONDITION])
@pytest.mark.parametrize("place", ["line", "environment", "table", "dotted"])
def test_a_family_in_every_place(place: str, reference: str) -> None:
    Path("condition.sql").write_text(f"{CONDITION}\n")
    key, environ = "snapshot.where.public.orders", {"CONDITION": CONDITION}
    arguments = list(WHOLE)
    if place == "line":
        arguments.append(f"{key}={reference}")
    elif place == "environment":
        environ["CDC__SNAPSHOT__WHERE__PUBLIC__ORDERS"] = reference
    else:
        table = {
            "table": f'[orders.snapshot.where]\n"public.orders" = {json.dumps(reference)}\n',
            "dotted": f"[orders]\n{key} = {json.dumps(reference)}\n",
        }[place]
        Path("cdc.toml").write_text(table)
    chosen = ["orders"] if place in ("table", "dotted") else []
    (settings,) = collect(arguments, environ, pipelines=chosen)
    assert conditions(settings) == {"public.orders": CONDITION}


def test_later_places_win_for_each_member_alone() -> None:
    Path("cdc.toml").write_text(
        '[orders.snapshot.where]\n"public.a" = "file"\n"public.b" = "file"\n"public.c" = "file"\n'
    )
    environ = {"CDC__SNAPSHOT__WHERE__PUBLIC__B": "env", "CDC__SNAPSHOT__WHERE__PUBLIC__C": "env"}
    arguments = [*WHOLE, "snapshot.where.public.c=line"]
    (settings,) = collect(arguments, environ, pipelines=["orders"])
    assert conditions(settings) == {"public.a": "file", "public.b": "env", "public.c": "line"}


@pytest.mark.parametrize("key", ["snapshot.where", "snapshot.where.", "snapshot.were.public.a"])
def test_a_family_is_no_key_itself(key: str) -> None:
    (settings,) = collect([*WHOLE, f"{key}=x"], {})
    with pytest.raises(ConfigError, match=f"unknown key '{key}'"):
        conditions(settings)


def test_references_in_checkpoint_are_shown_as_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("password").write_text(CANARY)
    monkeypatch.setenv("PASSWORD", CANARY)
    monkeypatch.setenv("CDC__SNAPSHOT__WHERE__PUBLIC__ORDERS", "name = '${PASSWORD}'")
    for reference in ("${PASSWORD}", "${file:password}", CANARY):
        checkpoint = f"checkpoint=postgres://cdc:{reference}@db/shop"
        assert execute(["config", "show", *WHOLE, checkpoint]) == 0
        said = capsys.readouterr()
        assert CANARY not in said.out + said.err
        assert "postgres://cdc:***@db/shop" in said.out
        assert "name = '${PASSWORD}'" in said.out
