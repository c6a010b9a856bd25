"""The figures of one run, as they are kept in JSON."""

from __future__ import annotations

import os
import platform
import zlib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct, field

from benchmarks.children import Usage
from benchmarks.plan import Case, Plan

FOLDER = Path(__file__).parent / "results"


class Machine(Struct, frozen=True):
    cpus: int
    cpu: str
    system: str
    python: str

    @classmethod
    def this(cls) -> Machine:
        return cls(os.cpu_count() or 0, _cpu(), platform.system(), platform.python_version())

    @property
    def tag(self) -> str:
        return f"{self.cpus}cpu-{zlib.crc32(self.cpu.encode()) & 0xFFFF:04x}"


class Streamed(Struct):
    """One contender over one case. `delivered` is None where it cannot be counted.

    `start` is what the program takes with nothing to stream; the best of `runs` counts.
    """

    contender: str
    case: Case
    runs: list[Usage]
    delivered: list[int | None]
    start: float = 0.0
    reference: float = 0.0

    @property
    def best(self) -> Usage:
        return min(self.runs, key=lambda usage: usage.seconds)

    @property
    def rate(self) -> float:
        return self.case.rows / self.best.seconds

    @property
    def net_rate(self) -> float:
        """Without the start of the program."""
        return self.case.rows / max(self.best.seconds - self.start, 1e-9)

    @property
    def ratio(self) -> float:
        return self.rate / self.reference if self.reference else 0.0

    @property
    def net_ratio(self) -> float:
        """Ours without the start of the interpreter, the reference as it is."""
        return self.net_rate / self.reference if self.reference else 0.0

    @property
    def cpu_us(self) -> float:
        """Client CPU an event, in microseconds; the start of the program is in it."""
        return self.best.cpu / self.case.rows * 1e6

    @property
    def peak(self) -> int:
        return max(usage.peak for usage in self.runs)

    @property
    def limits(self) -> tuple[float | None, float | None]:
        return self.case.limits.get(self.contender, (None, None))

    @property
    def wrong(self) -> list[int]:
        """Counts that are not the number of rows."""
        return [n for n in self.delivered if n is not None and n != self.case.rows]


class Spread(Struct, frozen=True):
    """Milliseconds."""

    p50: float
    p99: float
    max: float


class Latency(Struct):
    """`commit` is since the commit time in the event, `write` since the writer's clock in the row.

    The first second is not in them. `achieved` is the writer's rate.
    """

    rate: int
    achieved: float
    sent: int
    received: int
    commit: Spread
    write: Spread


class Stall(Struct):
    """NATS stopped for `seconds` under load. `lost` rows never came to the stream."""

    seconds: int
    rate: int
    achieved: float
    rows: int
    messages: int
    lost: int
    peak: int
    caught_up: float


class Wide(Struct):
    """A backfill of rows of 1 MB to a file."""

    rows: int
    delivered: int
    peak: int


class Result(Struct):
    plan: Plan
    machine: Machine
    versions: dict[str, str]
    date: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    load: tuple[float, float, float] = (0.0, 0.0, 0.0)
    start: dict[str, float] = {}
    streamed: list[Streamed] = []
    latency: Latency | None = None
    stall: Stall | None = None
    wide: Wide | None = None
    peers: dict[str, str] = {}

    @property
    def faults(self) -> list[str]:
        """What was lost or counted wrong; never a time."""
        said = [
            f"{s.contender}, {s.case.label}: delivered {wrong:,} of {s.case.rows:,}"
            for s in self.streamed
            for wrong in s.wrong
        ]
        if self.latency and self.latency.received != self.latency.sent:
            said.append(f"latency: received {self.latency.received:,} of {self.latency.sent:,}")
        if self.stall and self.stall.lost:
            said.append(f"stalled sink: lost {self.stall.lost:,} of {self.stall.rows:,}")
        if self.wide and self.wide.delivered != self.wide.rows:
            said.append(f"rows of 1 MB: delivered {self.wide.delivered:,} of {self.wide.rows:,}")
        return said


def save(result: Result) -> Path:
    """Write it under `results/`, named by date and machine."""
    name = f"{result.date:%Y-%m-%dT%H%M%S}-{result.machine.tag}.json"
    path = FOLDER / name
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def read(path: Path) -> Result:
    return msgspec.json.decode(path.read_bytes(), type=Result)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
