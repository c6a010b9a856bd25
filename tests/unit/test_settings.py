"""Settings: order of places, references, and every problem told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.errors import ConfigError
from tailrace.redact import Scrubber, mask, mask_secret, passwords
from tailrace.registry import Registry
from tailrace.resolve import Resolved, resolve
from tailrace.settings import Settings, collect, interpolate, parse_arguments, read_file

CANARY = "canary-7f3a"
WHOLE = ["source=postgres", "sink=stdout", "source.dsn=postgresql://u@h/db"]


def one(*arguments: str, **environ: str) -> Settings:
    (settings,) = collect(arguments, environ)
    return settings


def messages(error: ConfigError) -> list[str]:
    return [problem.message for problem in error.problems]


def resolved(*arguments: str) -> Resolved:
    return resolve(one(*arguments), Registry(), drivers=False)


def problems(*arguments: str) -> list[ConfigError]:
    with pytest.raises(ConfigError) as caught:
        resolved(*arguments)
    return list(caught.value.problems)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_values_are_split_at_the_first_equals_sign_and_stay_text() -> None:
    layer = parse_arguments(["source.dsn=host=h password=a=b", "batch.events=012345", "x=on"])
    assert layer.values == {
        "source.dsn": "host=h password=a=b",
        "batch.events": "012345",
        "x": "on",
    }


def test_what_is_not_a_setting_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_arguments(["orders", "=1", "sink=a", "sink.type=b"])
    assert messages(caught.value) == [
        "'orders' is not a setting",
        "'=…' is not a setting",
        "sink is given twice",
    ]


def test_later_places_win_and_are_remembered() -> None:
    Path("cdc.toml").write_text(
        '[orders]\nsource.type = "postgres"\nsource.dsn = "file"\nsource.tables = ["a.*", "b.c"]\n'
        'batch.events = 7\nsink.type = "file"\nsink.fsync = false\nsink.path = "file"\n'
    )
    environ = {"CDC__SOURCE__DSN": "env", "CDC__SINK__PATH": "env", "CDC__ON_ERROR": "stop"}
    (settings,) = collect(["sink.path=line"], environ)
    assert dict(settings) == {
        "name": "orders",
        "source": "postgres",
        "source.dsn": "env",
        "source.tables": "a.*,b.c",
        "batch.events": "7",
        "sink": "file",
        "sink.fsync": "false",
        "sink.path": "line",
        "on_error": "stop",
    }
    origins = {key: entry.origin for key, entry in settings.entries.items()}
    assert origins["batch.events"] == "cdc.toml [orders]"
    assert origins["source.dsn"] == "environment CDC__SOURCE__DSN"
    assert origins["sink.path"] == "command line"


def test_a_whole_pipeline_on_the_command_line_leaves_the_file_alone() -> None:
    Path("cdc.toml").write_text("[orders]\nbatch.events = 7\n")
    (settings,) = collect(WHOLE, {})
    assert "batch.events" not in settings
    (settings,) = collect(WHOLE, {}, config=Path("cdc.toml"))
    assert settings["batch.events"] == "7"


def test_pipelines_are_chosen_by_name() -> None:
    Path("cdc.toml").write_text('[a]\nsink = "x"\n[b]\nsink = "y"\n')
    assert [s["name"] for s in collect([], {})] == ["a", "b"]
    assert [s["sink"] for s in collect([], {}, pipelines=["b"])] == ["y"]
    with pytest.raises(ConfigError, match="no pipeline 'c'") as caught:
        collect([], {}, pipelines=["c"])
    assert caught.value.mend == "it has: a, b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = [", "is not TOML"),
        ("batch = 1", "'batch' belongs to no pipeline"),
        ('[source]\ntype = "postgres"', "'source' belongs to no pipeline"),
        ("[a]\nx = [[1]]", "x is a list of lists"),
        ("", "has no pipeline"),
    ],
)
def test_a_file_that_is_no_configuration(text: str, message: str) -> None:
    Path("cdc.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_file(Path("cdc.toml"))
    assert message in caught.value.message
    assert caught.value.mend


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"cannot read other\.toml: No such file"):
        collect([], {}, config=Path("other.toml"))


def test_references_are_replaced_once_and_at_the_end(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("p${A}w\n")
    environ = {"A": "1", "EMPTY": "", "B": "${A}"}
    text = f"${{A}}-${{B}}-${{EMPTY:-x}}-${{C:-y=z}}-${{file:{secret}}}-$${{A}}-$A"
    assert interpolate(text, environ, "k") == "1-${A}-x-y=z-p${A}w-${A}-$A"


def test_references_to_nothing_name_key_and_variable() -> None:
    with pytest.raises(ConfigError) as caught:
        one("source.dsn=${DSN}", "sink.path=${file:/nowhere/x}", "name=${a b}")
    first, second, third = messages(caught.value)
    assert first == "source.dsn: the environment has no variable DSN"
    assert second == "sink.path: cannot read /nowhere/x: No such file or directory"
    assert third.startswith("name: ")


def test_text_is_converted_by_the_models() -> None:
    found = resolved(*WHOLE, "batch.bytes=1MiB", "grace=2m", "source.tables=a.b, !a.c")
    assert found.pipeline.batch_bytes == 1 << 20
    assert found.pipeline.grace == 120.0
    assert found.source.config.model_dump()["tables"] == ("a.b", "!a.c")
    assert found.name == "postgres-stdout"
    assert (found.store.name, found.location) == ("sqlite", "cdc.db")
    assert found.setup.connector == "postgres"


def test_every_problem_is_told_at_once() -> None:
    found = problems(
        "source=postgres", "snk=nats", "batch.evnts=5", "batch.events=many", "memory=big",
        "snapshot=sometimes", "source.tabels=a.b", "source.temporary=perhaps", "grace=-1s",
        "checkpoint=cdc.db",
    )  # fmt: skip
    told = {problem.message: problem.mend or "" for problem in found}
    assert told["unknown key 'snk' (command line)"] == "did you mean sink?"
    assert told["unknown key 'batch.evnts' (command line)"] == "did you mean batch.events?"
    assert told["unknown key 'source.tabels' (command line)"] == "did you mean source.tables?"
    assert told["sink is missing"].startswith("give sink=…")
    assert told["source.dsn is missing"].startswith("give source.dsn=…")
    assert "batch.events = 'many': not a whole number (command line)" in told
    assert "source.temporary = 'perhaps': neither true nor false (command line)" in told
    assert any(text.startswith("memory = 'big': not a size") for text in told)
    assert any(text.startswith("snapshot = 'sometimes': must be 'initial'") for text in told)
    assert any(text.startswith("grace = '-1s': not a duration") for text in told)
    assert told["checkpoint = 'cdc.db' names no store"].endswith("sqlite:cdc.db")
    assert all(told.values())


def test_an_unknown_plugin_has_a_suggestion_and_its_keys_are_not_blamed() -> None:
    (found,) = problems("source=postgrse", "sink=stdout", "source.dsn=x")
    assert found.message == "there is no source 'postgrse'"
    assert found.mend is not None
    assert found.mend.startswith("did you mean 'postgres'? installed: ")


def test_a_plugin_of_another_kind_is_told_so() -> None:
    (found,) = problems("source=postgres", "source.dsn=x", "sink=postgres")
    assert found.message == "plugin 'postgres' is no sink, but a source and a store"


def test_a_secret_of_the_wrong_kind_is_not_shown() -> None:
    found = problems(f"source=postgres sink=stdout source.dsn={CANARY}", f"{CANARY}.x=1")
    assert not any(f"= {CANARY!r}" in problem.message for problem in found)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:canary@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:can@ary@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u@h/db?password=canary", "postgresql://u@h/db?password=***"),
        ("host=h password=canary dbname=d", "host=h password=*** dbname=d"),
        (r"host=h password = 'can\' ary' dbname=d", "host=h password = *** dbname=d"),
        ("host=h oauth_client_secret=canary", "host=h oauth_client_secret=***"),
        ("host=h scram_client_key=canary", "host=h scram_client_key=***"),
        ("nats://canary@h:4222,nats://u:canary@i", "nats://***@h:4222,nats://u:***@i"),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
        ("sqlite:cdc.db", "sqlite:cdc.db"),
    ],
)
def test_passwords_are_masked(text: str, shown: str) -> None:
    assert mask(text) == shown
    assert bool(passwords(text)) == (text != shown)


def test_a_url_with_a_space_in_its_password_is_not_shown() -> None:
    assert mask_secret("postgresql://u:can ary@h/db") == "***"
    assert mask_secret("postgresql://u:canary@h/db") == "postgresql://u:***@h/db"
    assert mask_secret("host=h user=u") == "host=h user=u"


def test_known_secrets_are_scrubbed_however_they_are_written() -> None:
    scrub = Scrubber()
    scrub.hide(
        passwords("postgresql://postgres:a%40b-c@h") | {"pw", "postgres"}, public=["postgres"]
    )
    assert scrub("a%40b-c a@b-c pw spwn postgres") == "*** *** *** spwn postgres"
