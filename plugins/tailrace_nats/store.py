"""Checkpoints in a JetStream key-value bucket: ``checkpoint=nats://host:4222/BUCKET``."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from tailrace.checkpoint import BackfillRequest
from tailrace.redact import mask
from tailrace.stores.encoding import (
    damaged,
    damaged_requests,
    digest,
    pack_requests,
    unpack_requests,
)
from tailrace.stores.records import Record, RecordStore
from tailrace_nats import subjects
from tailrace_nats.bucket import Bucket

_CHECKPOINT = "checkpoint."
_REQUESTS = "requests."
_GONE = b"null"


class _Kept(Struct):
    """The value under ``checkpoint.<name>``; `checkpoint` is null once it was deleted."""

    epoch: int
    writer: str
    sha256: str
    checkpoint: Raw


class _Requests(Struct):
    """The value under ``requests.<name>``: those that wait, oldest first."""

    sha256: str
    requests: Raw


class NatsStore(RecordStore):
    """``nats://…``; several pipelines may share the bucket."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.where = mask(f"nats:{location}")
        self._bucket = Bucket(location, self.where)

    async def connect(self) -> None:
        await self._bucket.open()

    async def made(self) -> bool:
        return await self._bucket.made()

    async def close(self) -> None:
        await self._bucket.close()

    async def read(self, name: str) -> Record:
        key = _CHECKPOINT + key_of(name)
        found = await self._bucket.get(key)
        if found is None:
            return Record()
        value, revision = found
        try:
            kept = msgspec.json.decode(value, type=_Kept)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise damaged(self._place(key), str(error)) from error
        payload = None if bytes(kept.checkpoint) == _GONE else bytes(kept.checkpoint)
        return Record(kept.epoch, payload, kept.sha256, kept.writer, revision)

    async def swap(self, name: str, record: Record) -> Record | None:
        payload = Raw(_GONE if record.payload is None else record.payload)
        value = msgspec.json.encode(_Kept(record.epoch, record.writer, record.sha256, payload))
        revision = await self._bucket.swap(_CHECKPOINT + key_of(name), value, record.revision)
        return None if revision is None else replace(record, revision=revision)

    async def names(self) -> list[str]:
        keys = await self._bucket.keys(_CHECKPOINT)
        names = sorted(name_of(each.removeprefix(_CHECKPOINT)) for each in keys)
        return [name for name in names if (await self.read(name)).payload is not None]

    async def ask(self, name: str, request: BackfillRequest) -> None:
        while True:
            waiting, revision = await self._waiting(name)
            if any(each.id == request.id for each in waiting):
                return
            if await self._keep(name, [*waiting, request], revision):
                return

    async def asked(self, name: str) -> list[BackfillRequest]:
        return (await self._waiting(name))[0]

    async def answer(self, name: str, request_id: str) -> None:
        while True:
            waiting, revision = await self._waiting(name)
            left = [each for each in waiting if each.id != request_id]
            if left == waiting or await self._keep(name, left, revision):
                return

    async def forget(self, name: str) -> None:
        await self._bucket.drop(_REQUESTS + key_of(name))

    async def _waiting(self, name: str) -> tuple[list[BackfillRequest], int]:
        """The requests, and the revision that they have."""
        key = _REQUESTS + key_of(name)
        found = await self._bucket.get(key)
        if found is None:
            return [], 0
        value, revision = found
        try:
            kept = msgspec.json.decode(value, type=_Requests)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise damaged_requests(self._place(key), str(error)) from error
        return unpack_requests(name, bytes(kept.requests), kept.sha256, self._place(key)), revision

    async def _keep(self, name: str, requests: Sequence[BackfillRequest], revision: int) -> bool:
        payload = pack_requests(requests)
        value = msgspec.json.encode(_Requests(digest(name, payload), Raw(payload)))
        return await self._bucket.swap(_REQUESTS + key_of(name), value, revision) is not None

    def _place(self, key: str) -> str:
        return f"{self.where} at key {key}"


def key_of(name: str) -> str:
    """The pipeline's name as a part of a key: all but letters, digits, _ and - as =XX."""
    return subjects.escape(name).replace("%", "=")


def name_of(key: str) -> str:
    """The name that `key_of` was given."""
    return subjects.unescape(key.replace("=", "%"))
