"""Checkpoints and requests as bytes with a checksum. A store decides where the two are kept."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import msgspec

from tailrace.checkpoint import VERSION, BackfillRequest, Checkpoint
from tailrace.errors import CheckpointError


class _Versioned(msgspec.Struct):
    version: int


def pack(checkpoint: Checkpoint) -> bytes:
    """The checkpoint as one line of JSON."""
    return msgspec.json.encode(checkpoint)


def digest(name: str, payload: bytes) -> str:
    """The checksum of `payload` as pipeline `name`'s."""
    return sha256(name.encode() + b"\0" + payload).hexdigest()


def unpack(name: str, payload: bytes, checksum: str, where: str) -> Checkpoint:
    """The checkpoint that `pack` made. Raises CheckpointError, which names `where`."""
    if digest(name, payload) != checksum:
        raise damaged(where, "its checksum does not match")
    try:
        version = msgspec.json.decode(payload, type=_Versioned).version
        if version > VERSION:
            raise newer(where, version, VERSION)
        return msgspec.json.decode(payload, type=Checkpoint)
    except msgspec.DecodeError as error:
        raise damaged(where, str(error)) from error


def pack_requests(requests: Sequence[BackfillRequest]) -> bytes:
    """The requests as one line of JSON."""
    return msgspec.json.encode(requests)


def unpack_requests(name: str, payload: bytes, checksum: str, where: str) -> list[BackfillRequest]:
    """The requests that `pack_requests` was given. Raises CheckpointError, which names `where`."""
    if digest(name, payload) != checksum:
        raise damaged_requests(where, "their checksum does not match")
    try:
        return msgspec.json.decode(payload, type=list[BackfillRequest])
    except msgspec.DecodeError as error:
        raise damaged_requests(where, str(error)) from error


def damaged(where: str, fault: str) -> CheckpointError:
    """The error for a checkpoint that is there and cannot be read."""
    return CheckpointError(
        f"the checkpoint in {where} cannot be used: {fault}",
        mend="Put back a good copy of it. Only if there is none, move it away and start the "
        "pipeline as a new one; changes made in between may then be missing.",
    )


def damaged_requests(where: str, fault: str) -> CheckpointError:
    """The error for requests that are there and cannot be read."""
    return CheckpointError(
        f"the requests for a backfill in {where} cannot be used: {fault}",
        mend="Remove them there, and ask again with cdc backfill TABLE.",
    )


def newer(where: str, found: int, known: int) -> CheckpointError:
    """The error for what a later Tailrace wrote."""
    return CheckpointError(
        f"the checkpoint in {where} has version {found}; this Tailrace reads up to {known}",
        mend="Run the Tailrace that wrote it, or a later one.",
    )
