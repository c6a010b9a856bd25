"""``cdc check`` of a NATS sink: what is found, and that the mending step mends it."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from findings import said, the, troubles
from jetstream import api, batch, client, events, make_stream, sink
from tailrace.connector import Finding
from tailrace_demo.processes import free_port
from tailrace_demo.servers import Nats
from tailrace_nats.check.server import encryption, fast_ingest

CERTS = Path(__file__).parent / "certs"


def checked(url: str, **keys: Any) -> list[Finding]:
    """What the check finds; streams and what they hold must be as before."""

    async def run() -> list[Finding]:
        return await sink(url, **keys).check()

    return asyncio.run(run())


def made(url: str, **config: object) -> None:
    asyncio.run(make_stream(url, **{"allow_batched": True, **config}))  # type: ignore[arg-type]


NANO = 1_000_000_000
FLAGS: dict[str, tuple[str, Callable[[str], object]]] = {
    "--allow-fast": ("allow_batched", bool),
    "--allow-batch": ("allow_atomic", bool),
    "--ack": ("no_ack", lambda value: False),
    "--dupe-window": ("duplicate_window", lambda value: int(value.removesuffix("s")) * NANO),
    "--max-bytes": ("max_bytes", int),
    "--max-msg-size": ("max_msg_size", int),
    "--max-msgs": ("max_msgs", int),
    "--max-msgs-per-subject": ("max_msgs_per_subject", int),
    "--subjects": ("subjects", lambda value: value.split(",")),
}
"""What the flags of ``nats stream edit`` (natscli 0.5) set."""


def carry_out(url: str, finding: Finding) -> None:
    """Do what the command ``nats`` would do, which is not installed everywhere."""
    words = shlex.split(str(finding.mend))
    assert words[:3] == ["nats", "stream", "edit"], finding
    pairs = [word.partition("=")[::2] if "=" in word else (word, "") for word in words[4:]]
    if words[4] == "--subjects":
        pairs = [("--subjects", words[5])]
    changes = {FLAGS[flag][0]: FLAGS[flag][1](value or "yes") for flag, value in pairs}

    async def edit() -> None:
        async with client(url) as connection:
            info = await api(connection, f"STREAM.INFO.{words[3]}")
            answer = await api(
                connection, f"STREAM.UPDATE.{words[3]}", {**info["config"], **changes}
            )
            assert "error" not in answer, answer

    asyncio.run(edit())


def write(url: str, count: int) -> None:
    async def run() -> None:
        async with sink(url) as target:
            await target.write(batch(events(count)))

    asyncio.run(run())


def test_a_server_without_the_stream(nats: Nats) -> None:
    findings = checked(nats.url)
    assert troubles(findings) == []
    assert said("stream", findings) == "orders is made at the first start"
    assert "no limit of its own" in said("account", findings)
    assert "on this machine" in said("TLS", findings)


def test_the_stream_that_the_sink_makes(nats: Nats) -> None:
    write(nats.url, 3)
    findings = checked(nats.url)
    assert troubles(findings) == []
    assert said("stream", findings) == "orders takes cdc.>"
    assert "one copy in files" in said("storage", findings)
    assert said("duplicate_window", findings).startswith("120 s")


# -- servers


def test_no_server_answers() -> None:
    [finding] = checked(f"nats://127.0.0.1:{free_port()}")
    assert finding.level == "error"
    assert finding.mend == "start the server, or correct sink.url"


def test_one_server_of_several_is_enough(nats: Nats) -> None:
    down = free_port()
    findings = checked(f"nats://127.0.0.1:{down},{nats.url}")
    [unreachable] = troubles(findings)
    assert unreachable.level == "warning"
    assert f":{down}" in unreachable.text
    assert said("stream", findings)


def test_credentials_that_are_none(nats: Nats, tmp_path: Path) -> None:
    file = tmp_path / "user.creds"
    file.write_text("nothing")
    [finding] = checked(nats.url, creds=str(file))
    assert (finding.level, finding.subject) == ("error", "credentials")


def test_a_wrong_password(configured: Callable[[str], Nats]) -> None:
    server = configured("authorization { user: u, password: right }")
    [refused] = checked(server.url, user="u", password="wr0ng")
    assert refused.level == "error"
    assert "wr0ng" not in f"{refused}"
    assert troubles(checked(server.url, user="u", password="right")) == []


def test_encryption(configured: Callable[[str], Nats]) -> None:
    files = f'cert_file: "{CERTS}/server.pem", key_file: "{CERTS}/server.key"'
    server = configured(f"tls {{ {files} }}")
    findings = checked(server.url, **{"tls.ca": str(CERTS / "ca.pem")})
    assert said("TLS", findings).endswith("is encrypted")


@pytest.mark.parametrize(
    ("address", "level"),
    [("10.0.0.7", "warning"), ("2001:db8::7", "warning"), ("::1", "ok"), ("127.9.9.9", "ok")],
)
def test_no_encryption_on_a_network(address: str, level: str) -> None:
    """Without a network: a test's servers are on its own machine."""
    assert encryption("nats://h:4222", address, encrypted=False).level == level
    assert encryption("nats://h:4222", address, encrypted=True).level == "ok"


def test_small_messages_only(configured: Callable[[str], Nats]) -> None:
    server = configured("max_payload: 64KB")
    assert "65,536" in the("warning", "max_payload", checked(server.url)).text
    server.config = "max_payload: 1MB"
    server.restart()
    assert troubles(checked(server.url)) == []


def test_an_old_server() -> None:
    """Made up: the packages have a new one."""
    assert [finding.level for finding in fast_ingest((2, 12))] == ["warning"]
    assert list(fast_ingest((2, 14))) == []


def test_no_jetstream(configured: Callable[[str], Nats]) -> None:
    off = "accounts { A { users: [{user: u, password: p}] } }"
    server = configured(off)
    refused = the("error", "stream", checked(server.url, user="u", password="p"))
    assert "JetStream" in refused.text or "jetstream" in refused.text
    core = checked(server.url, user="u", password="p", mode="core")
    assert the("warning", "mode", core).mend == "sink.mode=jetstream"


# -- the user and its account

USER = """
accounts {{ A {{
  jetstream: {limits}
  users: [{{user: full, password: p}}, {{user: u, password: p, permissions: {permissions}}}]
}} }}
"""


def test_what_the_user_may_not_do(configured: Callable[[str], Nats]) -> None:
    asking = '"$SYS.REQ.USER.INFO", "$JS.API.INFO"'
    info, making = '"$JS.API.STREAM.INFO.orders"', '"$JS.API.STREAM.*", "$JS.API.STREAM.CREATE.*"'
    server = configured(USER.format(limits="enabled", permissions=f"{{publish: [{asking}]}}"))

    calls = ("CREATE", "MSG.NEXT", "DELETE")
    reading = ", ".join(f'"$JS.API.CONSUMER.{call}.orders.>"' for call in calls)

    def given(publish: str, subscribe: str) -> list[Finding]:
        permissions = f"{{publish: {publish}, subscribe: {subscribe}}}"
        server.config = USER.format(limits="enabled", permissions=permissions)
        server.restart()
        return troubles(checked(server.url, user="u", password="p"))

    subjects, stream, *consumers = given(f"[{asking}]", '"_INBOX.>"')
    assert "may not publish on cdc.*.*.*" in subjects.text
    assert 'publish: { allow: ["$JS.API.STREAM.INFO.orders"] }' in str(stream.mend)

    assert len(consumers) == 3
    assert all("$JS.API.CONSUMER." in finding.text for finding in consumers)

    allow = f'[{asking}, {info}, {making}, {reading}, "cdc.>"]'
    [part] = given(f'{{allow: {allow}, deny: "cdc.hr.>"}}', '"_INBOX.>"')
    assert part.level == "warning"
    assert "a part of cdc.*.*.* only" in part.text

    assert given(allow, '"_INBOX.>"') == []

    [stream] = given('["cdc.>"]', '"_INBOX.>"')  # who may not ask is told by the first refusal
    assert stream.subject == "stream"
    assert "permissions violation" in stream.text


def test_an_inbox_that_may_not_be_heard(configured: Callable[[str], Nats]) -> None:
    permissions = '{subscribe: "_MINE.>"}'
    server = configured(USER.format(limits="enabled", permissions=permissions))
    findings = checked(server.url, user="u", password="p")
    assert [finding.level for finding in troubles(findings)] == ["error"]
    assert troubles(checked(server.url, user="u", password="p", inbox="_MINE")) == []


def test_an_account_that_is_full(configured: Callable[[str], Nats]) -> None:
    server = configured(USER.format(limits="{max_streams: 1, max_store: 100KB}", permissions="{}"))
    url = server.url.replace("//", "//full:p@")
    asyncio.run(make_stream(url, "other", subjects=["other"]))
    assert "has 1 of 1" in the("error", "streams", checked(url)).text
    assert said("stream", checked(url, stream="other", subject="other"))

    async def fill() -> None:
        async with client(url) as connection:
            await connection.jetstream().publish("other", b"x" * 90_000)

    asyncio.run(fill())
    full = the("warning", "account", checked(url, stream="other", subject="other"))
    assert "% used: once they are used up, the pipeline waits" in full.text


# -- the stream


def test_a_stream_that_is_not_to_be_made(nats: Nats) -> None:
    missing = the("error", "stream", checked(nats.url, create="false"))
    assert "there is no stream orders" in missing.text
    asyncio.run(make_stream(nats.url, "other", subjects=["cdc.shop.>"]))
    overlapping = the("error", "stream", checked(nats.url))
    assert "would overlap with other" in overlapping.text
    varying = the("error", "stream", checked(nats.url, subject="{db}.{table}"))
    assert "begin sink.subject with a word of its own" in str(varying.mend)


def test_a_stream_with_other_subjects(nats: Nats) -> None:
    made(nats.url, subjects=["other.>"])
    assert "but events go to cdc.*.*.*" in the("error", "stream", checked(nats.url)).text


def test_a_stream_with_some_of_the_subjects(nats: Nats) -> None:
    made(nats.url, subjects=["cdc.shop.>", "elsewhere"])
    part = the("warning", "stream", checked(nats.url, stream="orders"))
    assert "not all of cdc.*.*.*" in part.text
    carry_out(nats.url, part)
    assert troubles(checked(nats.url)) == []


@pytest.mark.parametrize(
    ("level", "subject", "config"),
    [
        ("error", "no_ack", {"no_ack": True}),
        ("warning", "retention", {"max_msgs_per_subject": 1}),
        ("warning", "max_msg_size", {"max_msg_size": 1_000}),
        ("warning", "duplicate_window", {"duplicate_window": 5 * NANO}),
        ("warning", "fast ingest", {"allow_batched": False}),
    ],
)
def test_a_stream_that_bites(nats: Nats, level: str, subject: str, config: dict[str, Any]) -> None:
    made(nats.url, **config)
    carry_out(nats.url, the(level, subject, checked(nats.url, resume="false")))
    assert troubles(checked(nats.url, resume="false")) == []


def test_a_short_window_does_not_bite_what_is_read_back(nats: Nats) -> None:
    made(nats.url, duplicate_window=5 * NANO)
    assert "read back first" in said("duplicate_window", checked(nats.url))


def test_settings_that_differ_from_the_keys(nats: Nats) -> None:
    made(nats.url)
    keys = {"max_bytes": "1MiB", "dedupe.window": "30s", "allow_atomic": "true"}
    found = [f for f in checked(nats.url, **keys) if f.subject == "settings"]
    assert [f.level for f in found] == ["warning"] * 3
    for finding in found:
        carry_out(nats.url, finding)
    assert [f for f in checked(nats.url, **keys) if f.subject == "settings"] == []


def test_a_stream_that_takes_no_atomic_batches(nats: Nats) -> None:
    made(nats.url)
    carry_out(nats.url, the("error", "stream", checked(nats.url, atomic="true")))
    assert troubles(checked(nats.url, atomic="true")) == []


def test_a_subject_of_one_table_that_the_stream_does_not_take(nats: Nats) -> None:
    made(nats.url, subjects=["cdc.>", "x.a"])
    own = {"subjects.*": {"public.users": "x.{table}"}}
    part = the("warning", "stream", checked(nats.url, stream="orders", **own))
    assert "not all of x.*" in part.text
    carry_out(nats.url, part)
    assert troubles(checked(nats.url, stream="orders", **own)) == []


@pytest.mark.parametrize("limit", ["max_bytes", "max_msgs"])
def test_a_stream_that_is_nearly_full(nats: Nats, limit: str) -> None:
    full = {"max_bytes": 5_000, "max_msgs": 10}[limit]
    made(nats.url, discard="old", max_age=3600 * NANO, **{limit: full})
    write(nats.url, 20)
    assert "then the oldest go" in said(limit, checked(nats.url))
    assert said("max_age", checked(nats.url)) == "3,600 s, then an event goes"
    carry_out(nats.url, Finding("warning", "", "", "nats stream edit orders --max-msgs=-1"))
    made_anew = {"discard": "new", limit: full}
    asyncio.run(_replace(nats.url, made_anew))
    nearly = the("warning", limit, checked(nats.url))
    assert "then the pipeline waits" in nearly.text
    carry_out(nats.url, nearly)
    assert troubles(checked(nats.url)) == []


async def _replace(url: str, changes: dict[str, Any]) -> None:
    async with client(url) as connection:
        info = await api(connection, "STREAM.INFO.orders")
        answer = await api(connection, "STREAM.UPDATE.orders", {**info["config"], **changes})
        assert "error" not in answer, answer


def test_streams_that_keep_nothing(nats: Nats) -> None:
    made(nats.url, storage="memory")
    memory = the("warning", "storage", checked(nats.url))
    assert str(memory.mend).startswith("nats stream rm orders")
    asyncio.run(_remove(nats.url))
    assert troubles(checked(nats.url)) == []
    made(nats.url, retention="interest")
    assert "every event is dropped" in the("warning", "retention", checked(nats.url)).text


async def _remove(url: str) -> None:
    async with client(url) as connection:
        await api(connection, "STREAM.DELETE.orders")


def test_a_sealed_stream(nats: Nats) -> None:
    made(nats.url)
    asyncio.run(_replace(nats.url, {"sealed": True}))
    assert the("error", "sealed", checked(nats.url)).mend
