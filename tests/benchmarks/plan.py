"""What is measured, how much of it, and what the figures are held against."""

from __future__ import annotations

from msgspec import Struct

GROUPS = ("file", "nats", "atomic", "backfill", "latency", "memory")
STREAMING = ("file", "nats", "atomic")

LIMITS = {"file": (1.2, 1.5), "nats": (0.5, 0.7), "atomic": (0.2, 0.4), "backfill": (0.3, 0.5)}
"""Against pg_recvlogical, the backfill against COPY: at least, and the aim."""

ONE_ROW_LIMITS = {"file": (0.8, 1.0)}
"""The same for transactions of one row, where the start of each transaction counts."""

CPU_LIMITS = (5.0, 4.0)
"""Microseconds of client CPU an event, from Postgres to file: at most, and the aim."""

LATENCY_LIMITS = {"p50": (1.5, None), "p99": (5.0, 2.5)}
"""Milliseconds: at most, and the aim."""

MEMORY_LIMITS = (150, 100)
"""Megabytes (10^6 bytes) resident: at most, and the aim."""

_QUICK_STALL = 15


class Case(Struct, frozen=True):
    """A table filled in transactions of one size; 0 where its rows are read and not its log."""

    table: str
    rows: int
    per_transaction: int

    @property
    def label(self) -> str:
        if not self.per_transaction:
            return f"{self.rows:,} rows"
        if self.per_transaction >= self.rows:
            return f"one transaction of {self.rows:,}"
        return f"{self.rows // self.per_transaction:,} transactions of {self.per_transaction}"

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """By contender: at least, and the aim."""
        return {**LIMITS, **ONE_ROW_LIMITS} if self.per_transaction == 1 else LIMITS


class Plan(Struct, frozen=True):
    """The sizes of one run. Seconds are what they last; `runs` is how often each is repeated."""

    groups: tuple[str, ...] = GROUPS
    rows: int = 1_000_000
    runs: int = 2
    latency_rate: int = 1_000
    latency_seconds: int = 15
    stall_rate: int = 5_000
    stall_seconds: int = 60
    wide_rows: int = 300

    @property
    def cases(self) -> tuple[Case, ...]:
        return (
            Case("rows_whole", self.rows, self.rows),
            Case("rows_100", max(self.rows // 5, 100), 100),
            Case("rows_1", max(self.rows // 20, 1), 1),
        )

    @property
    def there(self) -> Case:
        """Rows that a backfill finds."""
        return Case("rows_there", self.rows, 0)


def quick(groups: tuple[str, ...], rows: int | None) -> Plan:
    """Small enough to end within a minute."""
    return Plan(
        groups,
        rows or 100_000,
        1,
        latency_seconds=4,
        stall_seconds=_QUICK_STALL,
        wide_rows=100,
    )
