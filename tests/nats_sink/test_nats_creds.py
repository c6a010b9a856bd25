"""Users without a password: a credentials file (JWT and seed), or an nkey."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jetstream import batch, events, sink
from tailrace.checkpoint import Checkpoint
from tailrace.errors import ConfigError
from tailrace_demo.servers import Nats
from tailrace_nats.store import NatsStore

STORAGE = ("mem_storage", "disk_storage", "streams", "consumer")
nkeys = pytest.importorskip("nkeys")
NO_LIMITS = dict.fromkeys(
    ("subs", "conn", "leaf", "imports", "exports", "data", "payload", *STORAGE), -1
)
NO_SHARES = {k: v for k, v in NO_LIMITS.items() if k not in STORAGE}


class Party:
    """An operator, account or user: a key pair that signs what others are."""

    def __init__(self, prefix: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), prefix)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.name = self._pair.public_key.decode()

    def sign(self, other: Party, kind: str, nats: dict[str, Any], **claims: Any) -> str:
        """A JWT that says who `other` is."""
        payload: dict[str, Any] = {
            "iat": int(time.time()),
            "iss": self.name,
            "sub": other.name,
            "name": kind,
            "nats": {"type": kind, "version": 2, **nats},
            **claims,
        }
        digest = hashlib.sha256(msgspec.json.encode(payload)).digest()
        payload["jti"] = base64.b32encode(digest).decode().rstrip("=")
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(_base64(msgspec.json.encode(part)) for part in (head, payload))
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def as_credentials(jwt: str, user: Party) -> str:
    """The text of a credentials file."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )


class Realm:
    """An operator with one account: what its server is told, and what its users are given."""

    def __init__(self) -> None:
        self._operator = Party(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = Party(nkeys.PREFIX_BYTE_ACCOUNT)
        self._system = Party(nkeys.PREFIX_BYTE_ACCOUNT)

    @property
    def config(self) -> str:
        operator, account, system = self._operator, self._account, self._system
        limits = {"limits": {**NO_LIMITS, "wildcards": True}}
        return (
            f"operator: {operator.sign(operator, 'operator', {})}\n"
            f"system_account: {system.name}\nresolver: MEMORY\nresolver_preload: {{\n"
            f"{system.name}: {operator.sign(system, 'account', {'limits': NO_SHARES})}\n"
            f"{account.name}: {operator.sign(account, 'account', limits)}\n}}\n"
        )

    def credentials(self, **claims: Any) -> str:
        """A credentials file for a new user."""
        user = Party(nkeys.PREFIX_BYTE_USER)
        limits = {"subs": -1, "data": -1, "payload": -1}
        return as_credentials(self._account.sign(user, "user", limits, **claims), user)


async def write(url: str, **keys: Any) -> None:
    async with sink(url, **keys) as target:
        await target.write(batch(events(10)))


def refused(url: str, **keys: Any) -> str:
    """What is said at the start; it holds no seed and no token."""
    with pytest.raises(ConfigError) as caught:
        asyncio.run(asyncio.wait_for(write(url, **keys), 30))
    told = str(caught.value)
    for key in ("creds", "nkey"):
        if file := keys.get(key):
            secrets = [line for line in Path(file).read_text().split() if len(line) > 30]
            assert secrets
            assert not any(secret in f"{told} {caught.value!r}" for secret in secrets)
    return told


def test_a_credentials_file_lets_the_user_in(
    configured: Callable[[str], Nats], tmp_path: Path
) -> None:
    realm, file = Realm(), tmp_path / "user.creds"
    server = configured(realm.config)
    file.write_text(realm.credentials())

    async def run() -> None:
        await write(server.url, creds=str(file))
        async with NatsStore(f"//127.0.0.1:{server.port}?creds={file}") as store:
            assert (await store.claim("orders", Checkpoint("pg:1", None))).epoch == 1

    asyncio.run(run())


def test_credentials_of_another_realm_or_that_have_expired(
    configured: Callable[[str], Nats], tmp_path: Path
) -> None:
    realm, file = Realm(), tmp_path / "user.creds"
    server = configured(realm.config)
    for text in (Realm().credentials(), realm.credentials(exp=int(time.time()) - 60)):
        file.write_text(text)
        told = refused(server.url, creds=str(file))
        assert "sink.creds: " in told
        assert "refuses the credentials" in told


def test_a_credentials_file_with_another_users_seed(
    configured: Callable[[str], Nats], tmp_path: Path
) -> None:
    realm, file = Realm(), tmp_path / "user.creds"
    server = configured(realm.config)
    jwt = realm.credentials().split("\n")[1]
    file.write_text(as_credentials(jwt, Party(nkeys.PREFIX_BYTE_USER)))
    assert "sink.creds: " in refused(server.url, creds=str(file))


def test_an_nkey_lets_its_user_in_and_no_other(
    configured: Callable[[str], Nats], tmp_path: Path
) -> None:
    user, file = Party(nkeys.PREFIX_BYTE_USER), tmp_path / "user.nk"
    server = configured(f"authorization {{ users: [{{ nkey: {user.name} }}] }}")
    file.write_text(f"{user.seed.decode()}\n")
    asyncio.run(write(server.url, nkey=str(file)))
    file.write_text(f"{Party(nkeys.PREFIX_BYTE_USER).seed.decode()}\n")
    told = refused(server.url, nkey=str(file))
    assert "sink.nkey: " in told
    assert "refuses the credentials" in told


def test_a_file_that_holds_no_seed_of_a_user(nats: Nats, tmp_path: Path) -> None:
    file = tmp_path / "user.nk"
    account = Party(nkeys.PREFIX_BYTE_ACCOUNT).seed.decode()
    for text in (account, "SU no seed", "ü", ""):
        file.write_text(text)
        assert "does not hold the seed of a user" in refused_file(nats.url, file)


def refused_file(url: str, file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        asyncio.run(write(url, nkey=str(file)))
    text = file.read_text()
    assert len(text) < 20 or text not in str(caught.value)
    return str(caught.value)
