"""A credentials file: a user's JWT and seed, signed by an account, signed by an operator."""

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

    def sign(self, other: Party, kind: str, claims: dict[str, Any]) -> str:
        """A JWT that says who `other` is."""
        payload: dict[str, Any] = {
            "iat": int(time.time()),
            "iss": self.name,
            "sub": other.name,
            "name": kind,
            "nats": {"type": kind, "version": 2, **claims},
        }
        digest = hashlib.sha256(msgspec.json.encode(payload)).digest()
        payload["jti"] = base64.b32encode(digest).decode().rstrip("=")
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(_base64(msgspec.json.encode(part)) for part in (head, payload))
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_a_credentials_file_lets_the_user_in(
    configured: Callable[[str], Nats], tmp_path: Path
) -> None:
    operator, user = Party(nkeys.PREFIX_BYTE_OPERATOR), Party(nkeys.PREFIX_BYTE_USER)
    account, system = Party(nkeys.PREFIX_BYTE_ACCOUNT), Party(nkeys.PREFIX_BYTE_ACCOUNT)
    claims = operator.sign(account, "account", {"limits": {**NO_LIMITS, "wildcards": True}})
    server = configured(
        f"operator: {operator.sign(operator, 'operator', {})}\n"
        f"system_account: {system.name}\nresolver: MEMORY\nresolver_preload: {{\n"
        f"{system.name}: {operator.sign(system, 'account', {'limits': NO_SHARES})}\n"
        f"{account.name}: {claims}\n}}\n"
    )
    jwt = account.sign(user, "user", {"subs": -1, "data": -1, "payload": -1})
    file = tmp_path / "user.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )

    async def run() -> None:
        async with sink(server.url, creds=str(file)) as target:
            await target.write(batch(events(10)))
        async with NatsStore(f"//127.0.0.1:{server.port}?creds={file}") as store:
            assert (await store.claim("orders", Checkpoint("pg:1", None))).epoch == 1

    asyncio.run(run())
