"""What a pipeline has done, for whoever shows it."""

from __future__ import annotations

from msgspec import Struct

from tailrace.checkpoint import TableProgress


class Stats(Struct):
    """What the pipeline has done since it started; read by whoever shows it.

    `last_ts` is the newest delivered commit in microseconds since 1970, 0 before the first.
    `tables` and `estimates` are the backfill's, by table label. `error` is the transient error
    that is being retried, '' when there is none.
    """

    events: int = 0
    bytes: int = 0
    batches: int = 0
    last_ts: int = 0
    position: str = ""
    tables: dict[str, TableProgress] = {}
    estimates: dict[str, int] = {}
    error: str = ""
    retries: int = 0
