"""The figures as tables: for the terminal, and as Markdown for docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.contenders import Copy, RecvLogical
from benchmarks.plan import CPU_LIMITS, LATENCY_LIMITS, MEMORY_LIMITS
from benchmarks.results import Latency, Result, Streamed

Line = tuple[str, ...]

_PATHS = {
    "file": "Postgres to file",
    "nats": "Postgres to JetStream",
    "atomic": "Postgres to JetStream, sink.atomic=true",
    "backfill": "backfill to file",
}
_REFERENCES = (RecvLogical.name, Copy.name)
_STREAM_HEAD: Line = (
    "path", "case", "events/s", "ratio", "at least", "aim", "ratio, start taken off",
    "CPU us/event", "peak MB", "delivered",
)  # fmt: skip
_HEAD: Line = ("figure", "measured", "at most", "aim", "notes")


def text(result: Result) -> str:
    """For the terminal."""
    parts = [_title(result)]
    parts += [_aligned(head, lines) for head, lines in _tables(result) if lines]
    parts += [f"{name}: {said}" for name, said in result.peers.items()]
    parts.append(_verdict(result))
    return "\n\n".join(parts)


def markdown(result: Result) -> str:
    """For the documentation."""
    parts = [_title(result)]
    parts += [_piped(head, lines) for head, lines in _tables(result) if lines]
    parts += [f"{name}: {said}." for name, said in result.peers.items()]
    parts.append(_verdict(result))
    return "\n\n".join(parts) + "\n"


def _title(result: Result) -> str:
    machine, plan = result.machine, result.plan
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    starts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in result.start.items())
    return (
        f"{result.date:%Y-%m-%d %H:%M} UTC, {machine.cpus} x {machine.cpu}, {versions}; "
        f"best of {plan.runs}, load average at the start {result.load[0]:.1f}."
        + (f" Start to end with nothing to stream: {starts}." if starts else "")
    )


def _tables(result: Result) -> list[tuple[Line, list[Line]]]:
    figures = [*_cpu(result), *_latency(result.latency), *_memory(result)]
    return [(_STREAM_HEAD, [_streamed(s) for s in result.streamed]), (_HEAD, figures)]


def _streamed(s: Streamed) -> Line:
    least, aim = s.limits
    ours = s.contender not in _REFERENCES
    return (
        _PATHS.get(s.contender, s.contender),
        s.case.label,
        f"{s.rate:,.0f}",
        f"{s.ratio:.2f}",
        _times(least),
        _times(aim),
        f"{s.net_ratio:.2f}" if ours else "",
        f"{s.cpu_us:.1f}",
        f"{s.peak / 1e6:.0f}",
        _delivered(s),
    )


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f}"


def _delivered(s: Streamed) -> str:
    if s.delivered[0] is None:
        return "not counted"
    return f"{s.wrong[0]:,}: WRONG" if s.wrong else "all"


def _cpu(result: Result) -> Iterable[Line]:
    most, aim = (f"{limit:g} us" for limit in CPU_LIMITS)
    for s in result.streamed:
        if s.contender == "file" and s.case.per_transaction >= s.case.rows:
            figure = f"client CPU an event, {s.case.label}, {_PATHS[s.contender]}"
            yield figure, f"{s.cpu_us:.1f} us", most, aim, ""


def _latency(latency: Latency | None) -> Iterable[Line]:
    if latency is None:
        return
    note = f"{latency.rate:,} one-row transactions/s asked, {latency.achieved:,.0f} written"
    for name, spread, limits in (
        ("commit", latency.commit, LATENCY_LIMITS),
        ("writer's clock", latency.write, {}),
    ):
        for figure in ("p50", "p99", "max"):
            most, aim = limits.get(figure, (None, None))
            value = f"{getattr(spread, figure):.1f} ms"
            yield f"{name} to subscriber, {figure}", value, _ms(most), _ms(aim), note
            note = ""


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:g} ms"


def _memory(result: Result) -> Iterable[Line]:
    most, aim = (f"{limit} MB" for limit in MEMORY_LIMITS)
    for s in result.streamed:
        if s.contender in _PATHS and s.case.per_transaction >= s.case.rows:
            figure = f"peak, {s.case.label}, {_PATHS[s.contender]}"
            yield figure, f"{s.peak / 1e6:.0f} MB", most, aim, ""
    if (stall := result.stall) is not None:
        note = (
            f"{stall.rate:,} rows/s asked, {stall.achieved:,.0f} written; {stall.rows:,} rows, "
            f"{stall.messages:,} messages, {stall.lost:,} lost; caught up {stall.caught_up:.1f} s "
            "after the stall"
        )
        figure = f"peak, NATS stopped for {stall.seconds} s"
        yield figure, f"{stall.peak / 1e6:.0f} MB", most, aim, note
    if (wide := result.wide) is not None:
        figure = f"peak, backfill of {wide.rows} rows of 1 MB to file"
        yield figure, f"{wide.peak / 1e6:.0f} MB", most, aim, ""


def _verdict(result: Result) -> str:
    if result.faults:
        return "COUNTS ARE WRONG: " + "; ".join(result.faults)
    return "Counts: everything that was written was delivered."


def _aligned(head: Line, lines: Sequence[Line]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    rows = [head, tuple("-" * width for width in widths), *lines]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _piped(head: Line, lines: Sequence[Line]) -> str:
    rows = [head, ("---",) * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
