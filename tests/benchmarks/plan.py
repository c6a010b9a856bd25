"""What is measured, how much of it, and what the figures are held against."""

from __future__ import annotations

from msgspec import Struct

GROUPS = ("file", "nats", "latency", "memory")
STREAMING = ("file", "nats")

LIMITS = {"file": (1.0, 1.4), "nats": (0.4, 0.6)}
"""Against pg_recvlogical: at least, and the aim."""

LATENCY_LIMITS = {"p50": (2.0, None), "p99": (8.0, 3.0)}
"""Milliseconds: at most, and the aim."""

MEMORY_LIMITS = (200, 120)
"""Megabytes (10^6 bytes) resident: at most, and the aim."""

_QUICK_STALL = 15


class Case(Struct, frozen=True):
    """A table filled in transactions of one size."""

    table: str
    rows: int
    per_transaction: int

    @property
    def label(self) -> str:
        if self.per_transaction >= self.rows:
            return f"one transaction of {self.rows:,}"
        return f"{self.rows // self.per_transaction:,} transactions of {self.per_transaction}"


class Plan(Struct, frozen=True):
    """The sizes of one run. Seconds are what they last; `runs` is how often each is repeated."""

    groups: tuple[str, ...] = GROUPS
    rows: int = 1_000_000
    runs: int = 2
    latency_rate: int = 1_000
    latency_seconds: int = 15
    stall_rate: int = 5_000
    stall_seconds: int = 60

    @property
    def cases(self) -> tuple[Case, ...]:
        return (
            Case("rows_whole", self.rows, self.rows),
            Case("rows_100", max(self.rows // 5, 100), 100),
            Case("rows_1", max(self.rows // 20, 1), 1),
        )


def quick(groups: tuple[str, ...], rows: int | None) -> Plan:
    """Small enough to end within a minute."""
    return Plan(groups, rows or 100_000, 1, latency_seconds=4, stall_seconds=_QUICK_STALL)
