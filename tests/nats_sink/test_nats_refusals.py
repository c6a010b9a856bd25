"""What the user must mend: named with its key, at the start, and without the password."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jetstream import api, batch, client, events, make_stream, sink, stored, table
from tailrace.errors import ConfigError
from tailrace_demo.servers import Nats

CERTS = Path(__file__).parent / "certs"
CANARY = "c4nary-pa55word"


async def _open(url: str, **keys: Any) -> None:
    async with sink(url, **keys):
        pass


def refused(url: str, **keys: Any) -> str:
    """What opening says; it must be a ConfigError, and soon."""
    with pytest.raises(ConfigError) as caught:
        asyncio.run(asyncio.wait_for(_open(url, **keys), 30))
    told = str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
    return told


def accepted(url: str, **keys: Any) -> bool:
    """Open the sink and have an event acknowledged."""

    async def run() -> None:
        async with sink(url, **keys) as target:
            await target.write(batch(events(1)))

    asyncio.run(run())
    return True


def test_n01_missing_stream_with_create_off(nats: Nats) -> None:
    told = refused(nats.url, create="false")
    assert "sink.stream: there is no stream orders" in told
    assert "nats stream add orders --subjects 'cdc.>'" in told


def test_n01_stream_that_takes_other_subjects(nats: Nats) -> None:
    asyncio.run(make_stream(nats.url, subjects=["other.>"]))
    told = refused(nats.url)
    assert "stream orders takes other.>, but events go to cdc.*.*.*" in told


def test_n01_subject_that_the_stream_turns_out_not_to_take(nats: Nats) -> None:
    async def run(batched: bool) -> str:
        name = f"narrow{batched:d}"
        await make_stream(
            nats.url, name=name, subjects=[f"{name}.*.*.orders"], allow_batched=batched
        )
        keys = {"stream": name, "subject": name + ".{db}.{schema}.{table}"}
        async with sink(nats.url, **keys) as target:
            await target.write(batch(events(2)))
            mixed = [*events(2, start=2), *events(2, start=4, of=table("items"))]
            with pytest.raises(ConfigError) as caught:
                await target.write(batch(mixed))
        assert (await stored(nats.url, name)).numbers == [0, 1, 2, 3]
        return str(caught.value)

    for batched in (True, False):
        told = asyncio.run(run(batched))
        assert f"no subject of stream narrow{batched:d} takes narrow{batched:d}.shop" in told


def test_n01_subject_that_another_stream_takes(nats: Nats) -> None:
    async def run(batched: bool) -> str:
        name, thief = f"mine{batched:d}", f"thief{batched:d}"
        await make_stream(nats.url, name=name, subjects=[f"{name}.a.>"], allow_batched=batched)
        await make_stream(nats.url, name=thief, subjects=[f"{name}.shop.>"], allow_batched=batched)
        keys = {"stream": name, "subject": name + ".{db}.{schema}.{table}"}
        async with sink(nats.url, **keys) as target:
            with pytest.raises(ConfigError) as caught:
                await target.write(batch(events(2)))
        return str(caught.value)

    for batched in (True, False):
        assert f"no subject of stream mine{batched:d}" in asyncio.run(run(batched))


def test_n01_overlap_with_another_stream_names_it(nats: Nats) -> None:
    asyncio.run(make_stream(nats.url, name="first", subjects=["cdc.shop.>"]))
    told = refused(nats.url)
    assert "would overlap with first" in told
    assert "sink.stream=first" in told


def test_a_stream_that_takes_the_subjects_is_used(nats: Nats) -> None:
    asyncio.run(make_stream(nats.url, name="first", subjects=["cdc.>"]))
    assert accepted(nats.url)
    assert len(asyncio.run(stored(nats.url, "first")).messages) == 1


def test_template_without_a_fixed_beginning_needs_a_stream(nats: Nats) -> None:
    told = refused(nats.url, subject="{table}.{op}")
    assert "sink.stream: stream orders is missing" in told


def test_the_pipelines_name_is_a_fixed_beginning(nats: Nats) -> None:
    assert accepted(nats.url, subject="{name}.{table}")
    [message] = asyncio.run(stored(nats.url)).messages
    assert message.subject == "orders.orders"


def test_n01_stream_deleted_while_running_is_named(nats: Nats) -> None:
    async def run(batched: bool) -> str:
        await make_stream(nats.url, allow_batched=batched)
        async with sink(nats.url) as target, client(nats.url) as connection:
            await target.write(batch(events(2)))
            await api(connection, "STREAM.DELETE.orders")
            with pytest.raises(ConfigError) as caught:
                await target.write(batch(events(600, start=2)))
        return str(caught.value)

    for batched in (True, False):
        assert "sink.stream: there is no stream orders" in asyncio.run(run(batched))


def test_server_out_of_reach_at_the_start() -> None:
    told = refused(f"nats://joe:{CANARY}@127.0.0.1:1")
    assert "sink.url: cannot reach nats://***@127.0.0.1:1" in told


def test_no_server_answers_at_the_address() -> None:
    async def run() -> str:
        taken: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(lambda _, w: taken.append(w), "127.0.0.1", 0)
        async with silent:
            port = silent.sockets[0].getsockname()[1]
            with pytest.raises(ConfigError) as caught:
                await _open(f"nats://127.0.0.1:{port}", **{"connect.timeout": "200ms"})
            for writer in taken:
                writer.close()
        return str(caught.value)

    assert "cannot reach" in asyncio.run(run())


@pytest.mark.parametrize(
    ("server", "right", "wrong"),
    [
        (
            f'authorization {{ user: joe, password: "{CANARY}-right" }}',
            {"user": "joe", "password": f"{CANARY}-right"},
            {"user": "joe", "password": CANARY},
        ),
        (f'authorization {{ token: "{CANARY}-right" }}', {"token": f"{CANARY}-right"}, {}),
        (
            f'authorization {{ token: "{CANARY}-right" }}',
            {"token": f"{CANARY}-right"},
            {"token": CANARY},
        ),
    ],
    ids=["user", "no token", "wrong token"],
)
def test_credentials(
    configured: Callable[[str], Nats],
    caplog: pytest.LogCaptureFixture,
    server: str,
    right: dict[str, str],
    wrong: dict[str, str],
) -> None:
    caplog.set_level(logging.DEBUG)
    url = configured(server).url
    told = refused(url, **wrong)
    key = next((key for key in ("user", "token") if key in wrong), None)
    assert (f"sink.{key}" if key else "sink.url: ") in told
    assert ("refuses the credentials" if wrong else "wants credentials") in told
    assert accepted(url, **right)
    assert CANARY not in caplog.text


def test_credentials_in_the_url_are_unquoted(configured: Callable[[str], Nats]) -> None:
    server = configured(f'authorization {{ user: "j@e", password: "{CANARY}/:@" }}')
    url = server.url.replace("//", f"//j%40e:{CANARY}%2F%3A%40@")
    assert accepted(url)
    told = refused(url.replace("%2F", ""))
    assert "sink.url: " in told
    assert "refuses the credentials" in told


def test_a_token_in_the_url(configured: Callable[[str], Nats]) -> None:
    server = configured(f'authorization {{ token: "{CANARY}" }}')
    assert accepted(server.url.replace("//", f"//{CANARY}@"))


def test_a_credentials_file_that_is_none(nats: Nats, tmp_path: Path) -> None:
    file = tmp_path / "user.creds"
    file.write_text(CANARY)
    assert "is not a credentials file" in refused(nats.url, creds=str(file))


@pytest.mark.parametrize("batched", [True, False], ids=["fast", "pubacks"])
def test_a_missing_permission_is_an_error_and_not_a_time_out(
    configured: Callable[[str], Nats], batched: bool
) -> None:
    server = configured(
        "authorization { users: [{ user: a, password: a, permissions: {"
        'publish: ["$JS.API.>", "cdc.*.*.orders"] } }, { user: root, password: root }] }'
    )
    url = server.url.replace("//", "//a:a@")
    root = server.url.replace("//", "//root:root@")

    async def run() -> str:
        await make_stream(root, allow_batched=batched)
        async with sink(url, **{"ack.timeout": "60s"}) as target:
            await target.write(batch(events(2)))
            with pytest.raises(ConfigError) as caught:
                await target.write(batch(events(2, of=table("items"))))
        return str(caught.value)

    told = asyncio.run(asyncio.wait_for(run(), 30))
    assert "permissions violation for publish" in told
    assert "cdc.shop.public.items" in told
    assert "all subjects that sink.subject" in told


def test_a_missing_permission_at_the_start(configured: Callable[[str], Nats]) -> None:
    server = configured(
        'authorization { users: [{ user: a, password: a, permissions: { publish: "cdc.>" } }] }'
    )
    told = refused(server.url.replace("//", "//a:a@"))
    assert "permissions violation for publish" in told
    assert "$js.api.stream.info.orders" in told
    assert "grant the user publish on $JS.API.STREAM.INFO.NAME" in told


def test_a_missing_permission_for_the_inbox(configured: Callable[[str], Nats]) -> None:
    server = configured(
        'authorization { users: [{ user: a, password: a, permissions: { subscribe: "mine.>" } }] }'
    )
    url = server.url.replace("//", "//a:a@")
    told = refused(url)
    assert "permissions violation for subscription" in told
    assert "grant the user subscribe on _INBOX.> (or set sink.inbox" in told
    assert accepted(url, inbox="mine.inbox")


def test_a_server_without_jetstream(configured: Callable[[str], Nats]) -> None:
    server = configured("accounts { A { users: [{ user: a, password: a }] } }")
    url = server.url.replace("//", "//a:a@")
    told = refused(url)
    assert "nats-server -js" in told or "not enabled" in told
    asyncio.run(_open(url, mode="core"))


def test_an_account_that_may_have_no_more_streams(configured: Callable[[str], Nats]) -> None:
    server = configured(
        "accounts { A { jetstream { max_streams: 1 }, users: [{ user: a, password: a }] } }"
    )
    url = server.url.replace("//", "//a:a@")
    asyncio.run(make_stream(url, name="other", subjects=["other"]))
    told = refused(url)
    assert "stream orders cannot be made: maximum number of streams reached" in told


def test_tls_with_a_client_certificate(configured: Callable[[str], Nats]) -> None:
    server = configured(
        f'tls {{ cert_file: "{CERTS}/server.pem", key_file: "{CERTS}/server.key", '
        f'ca_file: "{CERTS}/ca.pem", verify: true }}'
    )
    url = server.url.replace("nats://", "tls://")
    ca = {"tls.ca": str(CERTS / "ca.pem")}
    own = {"tls.cert": str(CERTS / "client.pem"), "tls.key": str(CERTS / "client.key")}
    assert accepted(url, **ca, **own)
    assert "sink.tls" in refused(url)
    stranger = {"tls.cert": str(CERTS / "stranger.pem"), "tls.key": str(CERTS / "stranger.key")}
    for wrong in ({}, stranger):
        assert "sink.tls.cert" in refused(url, **ca, **wrong)


def test_tls_is_refused_by_a_server_without_it(nats: Nats) -> None:
    """The password does not leave: the server would have taken it in the clear."""
    told = refused(nats.url.replace("nats://", f"tls://joe:{CANARY}@"))
    assert "no TLS connection" in told
    assert "no TLS connection" in refused(nats.url, **{"tls.required": "true"})


def test_bad_certificate_files(nats: Nats, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    assert "sink.tls: the certificates cannot be used" in refused(nats.url, **{"tls.ca": str(file)})


def test_the_first_server_that_answers_is_taken(nats: Nats) -> None:
    assert accepted(f"nats://127.0.0.1:1,{nats.url}")


def test_nothing_is_left_open_when_opening_fails(nats: Nats) -> None:
    async def run() -> set[asyncio.Task[object]]:
        with pytest.raises(ConfigError):
            await _open(f"nats://127.0.0.1:1,nats://127.0.0.1:{nats.port}", create="false")
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(run()) == set()
