"""The keys: what is accepted, what is said of the rest, and what is never printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tailrace.assembly import build
from tailrace.registry import Registry
from tailrace.resolve import resolve
from tailrace.settings import collect
from tailrace_nats.config import NatsConfig
from tailrace_nats.sink import NatsSink

CANARY = "c4nary-pa55word"


def said(**keys: object) -> str:
    """What is wrong with `keys`."""
    with pytest.raises(ValidationError) as caught:
        NatsConfig.model_validate(keys)
    text = str(caught.value)
    assert CANARY not in text
    return text


def test_servers() -> None:
    config = NatsConfig.model_validate({"url": f"a, joe:{CANARY}@b:1 ,tls://tok@[::1]:2"})
    a, b, c = config.servers
    assert [s.address for s in config.servers] == ["nats://a:4222", "nats://b:1", "tls://[::1]:2"]
    assert (a.user, a.password) == (None, None)
    assert b.password is not None
    assert (b.user, b.password.get_secret_value()) == ("joe", CANARY)
    assert (c.user, c.password, c.tls) == ("tok", None, True)
    assert str(b) == "nats://***@b:1"
    assert config.tls, "one server wants it"


def test_secrets_do_not_print() -> None:
    config = NatsConfig.model_validate(
        {"url": f"nats://joe:{CANARY}@b", "user": "joe", "password": CANARY}
    )
    shown = f"{config} {config!r} {config.servers!r} {config.model_dump_json()}"
    assert CANARY not in shown


@pytest.mark.parametrize(
    "url", ["", " , ", f"http://{CANARY}@b", f"nats://j:{CANARY}@", f"nats://j:{CANARY}@b:x"]
)
def test_bad_addresses(url: str) -> None:
    assert "url" in said(url=url)


def test_bad_values_are_named_with_their_key() -> None:
    assert "subject" in said(subject="cdc.{tabel}")
    assert "unknown field {tabel}" in said(subject="cdc.{tabel}")
    assert "a stream's name has no spaces" in said(stream="a.b")
    assert "user and password go together" in said(user="joe")
    assert "tls.key needs tls.cert" in said(**{"tls.key": __file__})
    assert "set one of user, token, creds and nkey" in said(user="j", password=CANARY, token=CANARY)
    assert "tls.ca" in said(**{"tls.ca": "/nonexistent"})
    assert "ack.timeout" in said(**{"ack.timeout": "0"})
    assert "window" in said(window="0")
    assert "inbox" in said(inbox="a..b")


def test_defaults() -> None:
    config = NatsConfig.model_validate({})
    assert [server.address for server in config.servers] == ["nats://127.0.0.1:4222"]
    assert not config.tls
    assert config.create


def test_every_default_holds_where_all_values_are_text() -> None:
    assert [str(s) for s in NatsConfig.model_validate_strings({}).servers] == [
        "nats://127.0.0.1:4222"
    ]


def test_keys_as_a_user_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family among them; and atomic asks the source for whole transactions."""
    monkeypatch.chdir(tmp_path)
    keys = ["sink.atomic=true", "sink.subjects.public.users=STREAM.notifier", "sink.max_bytes=1kB"]
    ends = ["source=postgres", "source.dsn=postgresql://h/db", "sink=nats"]
    [settings] = collect([*ends, *keys], {})
    pipeline = build(resolve(settings, Registry()))
    assert isinstance(pipeline.sink, NatsSink)
    assert pipeline.sink.config.subjects == {"public.users": "STREAM.notifier"}
    assert pipeline.sink.config.max_bytes == 1_000
    assert pipeline.sink.whole
    assert pipeline.source.setup.whole
    [settings] = collect(ends, {})
    assert not build(resolve(settings, Registry())).source.setup.whole
