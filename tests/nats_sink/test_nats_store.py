"""Checkpoints in a JetStream bucket: the contract, and what the server may do to them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js.api import KeyValueConfig, StorageType

from findings import the
from jetstream import client
from servers.proxy import Proxy
from storecontract import FIRST, ORDERS, Opener, RecordContract, claim_first, load, moved, run
from tailrace.checkpoint import Checkpoint
from tailrace.errors import CheckpointError, ConfigError, FencedError, TransientError
from tailrace_demo.processes import free_port
from tailrace_demo.servers import Nats
from tailrace_nats import bucket
from tailrace_nats.store import NatsStore, key_of, name_of

CERTS = Path(__file__).parent / "certs"
CANARY = "c4n4ry-Pa55"

MakeProxy = Callable[[int], Proxy]
MakeServer = Callable[[str], Nats]


def at(url: str, rest: str = "") -> NatsStore:
    return NatsStore(url.partition(":")[2] + rest)


class TestNats(RecordContract):
    @pytest.fixture
    def opener(self, nats: Nats) -> Opener:
        return lambda: at(nats.url)


def test_the_bucket_is_made_in_files_with_one_value_a_key(nats: Nats) -> None:
    async def main() -> None:
        await claim_first(at(nats.url, "/pipelines"))
        async with client(nats.url) as connection:
            status = await (await connection.jetstream().key_value("pipelines")).status()
        assert status.history == 1
        assert status.stream_info.config.storage == StorageType.FILE
        assert not status.ttl
        assert await load(at(nats.url)) is None  # the default is another bucket

    run(main())


@pytest.mark.parametrize("made", [{"storage": StorageType.MEMORY}, {"ttl": 60.0}])
def test_a_bucket_that_forgets_is_refused(nats: Nats, made: dict[str, object]) -> None:
    async def main() -> None:
        async with client(nats.url) as connection:
            config = KeyValueConfig("short", **made)  # type: ignore[arg-type]
            await connection.jetstream().create_key_value(config)
        with pytest.raises(ConfigError, match=r"^checkpoint: bucket short forgets"):
            await load(at(nats.url, "/short"))

    run(main())


@given(st.text(max_size=50))
def test_every_name_is_a_key_and_comes_back(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", key_of(name))
    assert name_of(key_of(name)) == name


@pytest.mark.parametrize(
    "location",
    [
        "",
        "cdc.db",
        "//",
        "///pipelines",
        "//127.0.0.1:port",
        f"//u:{CANARY}/x@127.0.0.1",
        f"//u:{CANARY}?x@127.0.0.1",
        f"//u:p@{CANARY}@127.0.0.1:x",
        f"http://u:{CANARY}@127.0.0.1",
        f"//{CANARY}@127.0.0.1/a.b",
        f"//{CANARY}@127.0.0.1/a/b",
        f"//{CANARY}@127.0.0.1/a?replicas=many",
        f"//{CANARY}@127.0.0.1/a?replicas=12",
        f"//{CANARY}@127.0.0.1/a?ttl=3",
        f"//{CANARY}@127.0.0.1/a?creds=no/such/file",
        f"//u:{CANARY}@127.0.0.1:1/a",
        f"//{CANARY}@127.0.0.1:1,127.0.0.1:2/a",
    ],
)
def test_s01_an_address_of_no_use_is_a_configuration_error(location: str) -> None:
    with pytest.raises(ConfigError, match=r"^checkpoint: ") as caught:
        run(load(NatsStore(location)))
    assert CANARY not in str(caught.value)
    assert caught.value.mend


def test_a_server_that_is_down_is_passed_over(nats: Nats) -> None:
    hosts = f"//127.0.0.1:1,127.0.0.1:{nats.port}/pipelines"
    assert run(claim_first(NatsStore(hosts))).epoch == 1


def test_s01_credentials_of_each_kind(configured: MakeServer) -> None:
    user = configured(f'authorization {{ user: joe, password: "p@{CANARY}" }}')
    token = configured(f'authorization {{ token: "t/{CANARY}" }}')
    for server, right in ((user, f"joe:p%40{CANARY}"), (token, f"t%2F{CANARY}")):
        host = f"127.0.0.1:{server.port}/pipelines"
        assert run(claim_first(NatsStore(f"//{right}@{host}"))).epoch == 1
        for wrong in (f"joe:{CANARY}@", f"{CANARY}@", ""):
            with pytest.raises(ConfigError, match=r"(?i)authorization") as caught:
                run(load(NatsStore(f"//{wrong}{host}")))
            assert CANARY not in str(caught.value)
            assert "creds=FILE" in str(caught.value)


def test_what_the_user_may_not_do_is_said(
    configured: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "PATIENCE", 1.0)
    server = configured(
        'authorization { users: [{ user: joe, password: pw, permissions: { publish: "x.>" } }] }'
    )
    with pytest.raises(ConfigError, match=r"(?i)permissions violation.*\n.*grant the user publish"):
        run(load(NatsStore(f"//joe:pw@127.0.0.1:{server.port}")))


def test_a_server_without_jetstream_is_said(configured: MakeServer) -> None:
    server = configured("accounts { A { users: [ { user: joe, password: pw } ] } }")
    with pytest.raises(ConfigError, match=r"^checkpoint: .*\n.*nats-server -js"):
        run(load(NatsStore(f"//joe:pw@127.0.0.1:{server.port}")))


def test_tls(configured: MakeServer, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    server = configured(
        f'tls {{ cert_file: "{CERTS}/server.pem", key_file: "{CERTS}/server.key" }}'
    )
    location = f"tls://127.0.0.1:{server.port}/pipelines"
    with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
        run(load(NatsStore(location)))
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTS / "ca.pem"))
    assert run(claim_first(NatsStore(location))).epoch == 1
    with pytest.raises(ConfigError, match="secure connection not available"):
        run(load(NatsStore(f"tls://127.0.0.1:{nats.port}")))


def test_replicas_are_asked_for(nats: Nats) -> None:
    """One server cannot have three; that it says so shows that it was asked."""
    with pytest.raises(ConfigError, match="replicas > 1 not supported"):
        run(load(at(nats.url, "/pipelines?replicas=3")))


async def put(nats: Nats, key: str, value: bytes) -> None:
    async with client(nats.url) as connection:
        kv = await connection.jetstream().key_value(bucket.DEFAULT)
        await kv.put(key, value)


async def value_of(nats: Nats, key: str) -> bytes:
    async with client(nats.url) as connection:
        kv = await connection.jetstream().key_value(bucket.DEFAULT)
        return (await kv.get(key)).value or b""


def test_c13_every_torn_value_is_refused_and_left_alone(nats: Nats) -> None:
    async def main() -> None:
        async with at(nats.url) as store:
            mine = await store.claim("orders", FIRST)
            value = await value_of(nats, "checkpoint.orders")
            async with client(nats.url) as connection:
                kv = await connection.jetstream().key_value(bucket.DEFAULT)
                for length in range(len(value)):
                    await kv.put("checkpoint.orders", value[:length])
                    for call in (store.load("orders"), store.claim("orders", mine)):
                        with pytest.raises(CheckpointError, match=r"nats://.*checkpoint\.orders"):
                            await call
                    assert (await kv.get("checkpoint.orders")).value == (value[:length] or None)

    run(main())


@pytest.mark.parametrize("change", [(b'"epoch":1', b'"epoch":2'), (b'"rows":9', b'"rows":8')])
def test_c13_an_altered_value_is_refused(nats: Nats, change: tuple[bytes, bytes]) -> None:
    async def main() -> None:
        async with at(nats.url) as store:
            mine = await store.claim("orders", FIRST)
            value = await value_of(nats, "checkpoint.orders")
            await put(nats, "checkpoint.orders", value.replace(*change, 1))
            for call in (store.load("orders"), store.save("orders", mine)):
                with pytest.raises(CheckpointError, match="cannot be used"):
                    await call
            await store.delete("orders")
            assert await store.load("orders") is None

    run(main())


def test_c13_an_altered_request_is_refused(nats: Nats) -> None:
    async def main() -> None:
        async with at(nats.url) as store:
            await store.ask("orders", ORDERS)
            value = await value_of(nats, "requests.orders")
            for wrong in (value[:-9], value.replace(b"9.50", b"8.50"), b"[]"):
                await put(nats, "requests.orders", wrong)
                with pytest.raises(CheckpointError, match="requests for a backfill in nats://"):
                    await store.asked("orders")
            await store.delete("orders")
            assert await store.asked("orders") == []

    run(main())


def test_a_lost_connection_heals(
    nats: Nats, proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "PATIENCE", 1.0)
    way = proxy(nats.port)

    async def main() -> None:
        async with NatsStore(f"//127.0.0.1:{way.port}") as store:
            mine = await store.claim("orders", FIRST)
            for lose in (way.cut, way.reset):
                lose()
                await until_saved(store, moved(mine, "0/2"))
            way.refuse()
            way.cut()
            for _ in range(3):
                with pytest.raises(TransientError, match="cannot be reached"):
                    await store.asked("orders")
            way.accept()
            await until_saved(store, moved(mine, "0/3"))
            assert await store.load("orders") == moved(mine, "0/3")

    run(main())


async def until_saved(store: NatsStore, checkpoint: Checkpoint) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                return await store.save("orders", checkpoint)
            except TransientError:
                await asyncio.sleep(0.02)


def test_a_server_that_comes_back_has_what_was_saved(configured: MakeServer) -> None:
    server = configured("")

    async def main() -> None:
        async with at(server.url) as store:
            mine = await store.claim("orders", FIRST)
            await store.save("orders", moved(mine, "0/2"))
            await asyncio.to_thread(server.kill)
            with pytest.raises(TransientError):
                await store.save("orders", moved(mine, "0/3"))
            await asyncio.to_thread(server.start)
            await until_saved(store, moved(mine, "0/4"))
            assert await store.load("orders") == moved(mine, "0/4")

    run(main())


def test_a_server_that_does_not_answer_is_given_up(
    nats: Nats, proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "PATIENCE", 0.3)
    way = proxy(nats.port)

    async def main() -> None:
        async with NatsStore(f"//127.0.0.1:{way.port}") as store:
            mine = await store.claim("orders", FIRST)
            way.freeze()
            with pytest.raises(TransientError, match="timeout"):
                await store.save("orders", mine)
            way.thaw()
            monkeypatch.undo()
            await until_saved(store, mine)

    run(main())


def test_c14_a_full_bucket_passes_and_the_old_checkpoint_stays(nats: Nats) -> None:
    """A limit of the bucket stands in for a full disk; the server answers both alike."""

    async def main() -> None:
        async with client(nats.url) as connection:
            js = connection.jetstream()
            full = KeyValueConfig("full", storage=StorageType.FILE, max_bytes=2_000)
            await js.create_key_value(full)
            async with at(nats.url, "/full") as store:
                mine = await store.claim("orders", FIRST)
                for _ in range(2):
                    with pytest.raises(TransientError, match="maximum bytes exceeded"):
                        await store.save("orders", moved(mine, "x" * 3_000))
                assert await store.load("orders") == mine
                await js.delete_key_value("full")

    run(main())


def test_a_bucket_removed_while_in_use_is_no_fresh_start(nats: Nats) -> None:
    async def main() -> None:
        async with at(nats.url) as store, client(nats.url) as connection:
            mine = await store.claim("orders", FIRST)
            await connection.jetstream().delete_key_value(bucket.DEFAULT)
            with pytest.raises(TransientError, match="no response from stream"):
                await store.save("orders", mine)
            async with at(nats.url):  # makes it anew
                pass
            with pytest.raises(FencedError, match="deleted"):
                await store.save("orders", mine)

    run(main())


def test_a_check_of_a_server_that_is_out_of_reach(nats: Nats) -> None:
    lost = the("error", "store", run(at(f"nats://127.0.0.1:{free_port()}").check()))
    assert lost.mend == "check host and port, and that the server runs"
