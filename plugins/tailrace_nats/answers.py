"""What the server says to a message, and what becomes of it. Pure."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from tailrace.errors import ConfigError, TailraceError, TransientError

NO_ACCOUNT_ROOM = 10002
NO_SERVER_ROOM = 10023
TOO_LARGE = 10054
WRONG_STREAM = 10060
FULL = 10077
NOT_ATOMIC = 10174
INCOMPLETE = 10176
NO_IDS = 10177
TOO_MANY = 10199
STORED = 10201
NOT_BATCHED = 10205
UNKNOWN_BATCH = 10208


class ApiError(Struct, frozen=True):
    """JetStream's error: HTTP-like `code`, exact `err_code`."""

    code: int = 0
    err_code: int = 0
    description: str = ""

    def __str__(self) -> str:
        return f"{self.description} ({self.err_code or self.code})"


NO_RESPONDERS = ApiError(503, 0, "no stream took it")


class Answer(Struct, frozen=True):
    """Any acknowledgement: of one message, of a batch's progress or of its end."""

    type: str = ""
    seq: int = 0
    msgs: int = 0
    stream: str = ""
    count: int | None = None
    error: ApiError | None = None


_decode = msgspec.json.Decoder(Answer).decode


def read(body: bytes, stream: str) -> Answer:
    """The answer in `body`; an empty one is the server's "no responders".

    An answer of another stream than `stream` comes out as an error.
    """
    if not body:
        return Answer(error=NO_RESPONDERS)
    try:
        answer = _decode(body)
    except msgspec.MsgspecError:
        return Answer(error=ApiError(description="an answer that is not JetStream's"))
    if answer.stream not in ("", stream):
        return Answer(error=ApiError(0, WRONG_STREAM, f"stream {answer.stream} took it"))
    return answer


class LostError(TransientError):
    """The connection is gone or of no use any more; what is unacknowledged is sent anew."""


class RefusedError(TransientError):
    """JetStream has not stored a message, and may do so later: the stream is full, say."""


class UntakenError(RefusedError):
    """The stream has not seen a message: it is gone, has no leader, or takes other subjects."""

    def __init__(self, subject: str, stream: str, error: ApiError) -> None:
        super().__init__(f"stream {stream} did not get an event at {subject}: {error}")
        self.subject = subject


_ROOM = {
    NO_ACCOUNT_ROOM: "make room in the account's streams, or raise the account's JetStream limits",
    NO_SERVER_ROOM: "give the server room: max_file_store, max_memory_store, or the disk itself",
    FULL: "make room in the stream or raise its limits",
}


def refusal(error: ApiError, subject: str, stream: str) -> TailraceError:
    """What to raise for a message that is not stored, but is not at fault."""
    if error.err_code in (NOT_BATCHED, NOT_ATOMIC):
        return LostError(f"stream {stream} does not take batches any more: {error}")
    if error is NO_RESPONDERS or error.err_code == WRONG_STREAM:
        return UntakenError(subject, stream, error)
    if error.err_code == NO_IDS:
        return ConfigError(
            f"sink.atomic: the server takes no message ids in atomic batches: {error}",
            mend="update it to 2.12.1 or newer, or set sink.atomic=false",
        )
    return RefusedError(
        f"stream {stream} does not take events at {subject} for now: {error}",
        mend=_ROOM.get(error.err_code, f"see what the server says: nats stream info {stream}"),
    )
