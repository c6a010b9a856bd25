"""The core's own sinks, on real files and pipes."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
import resource
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from pydantic import ValidationError

from tailrace.config import PluginConfig
from tailrace.connector import Setup
from tailrace.errors import ConfigError, PermanentError, TransientError
from tailrace.event import Batch, Event, Position, Transaction
from tailrace.formats import Format, Message
from tailrace.row import Images
from tailrace.schema import TableSchema
from tailrace.sinks.file import BLOCK, FileConfig, FileSink
from tailrace.sinks.stdout import StdoutConfig, StdoutSink

TABLE = TableSchema("shop", "public", "orders", ())
TRANSACTION = Transaction(Position("0/1"), 0)


class Lines(Format):
    """A line of JSON for each event; none for a truncate."""

    Config = PluginConfig

    def encode(self, events: Sequence[Event], *, keyed: bool = False) -> list[Message]:
        return [
            Message(f'{{"id":{event.id},{event.change.json()}}}'.encode("latin-1"), (event,))
            for event in events
            if event.op != "t"
        ]


FORMAT = Lines(PluginConfig(), name="orders", connector="test")


def batch(first: int, last: int, note: str = "é") -> Batch:
    events = [
        Event(str(i), "c", TABLE, Images(key={"id": i}, after={"id": i, "note": note}), TRANSACTION)
        for i in range(first, last)
    ]
    return Batch(events, Position(f"0/{last}"))


def ids(data: bytes) -> list[int]:
    """The ids of the lines, all of which must be whole."""
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line)["id"] for line in data.splitlines()]


def file_sink(path: Path, *, fsync: bool = True) -> FileSink:
    return FileSink(FileConfig(path=path, fsync=fsync), Setup("orders"), FORMAT)


def write(sink: FileSink, *batches: Batch) -> None:
    async def main() -> None:
        async with sink:
            for one in batches:
                await sink.write(one)

    asyncio.run(main())


def command(main: Callable[..., None], *args: object) -> list[str]:
    """What runs a function of this module in another process."""
    script = "import sys; sys.path.insert(0, sys.argv[1]); import test_sinks as tests; "
    script += f"tests.{main.__name__}(*sys.argv[2:])"
    return [sys.executable, "-c", script, str(Path(__file__).parent), *map(str, args)]


@contextmanager
def child(
    main: Callable[..., None], *args: object, stdout: int | IO[bytes] = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command(main, *args), stdout=stdout, stderr=subprocess.PIPE)
    with process:
        try:
            yield process
        finally:
            process.kill()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def heard(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr is not None
    return process.stderr.readline().decode().strip()


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("fsync", [True, False])
def test_events_are_appended_in_order(fsync: bool, tmp_path: Path) -> None:
    path = tmp_path / "events"
    write(file_sink(path, fsync=fsync), *(batch(i, i + 5000) for i in range(0, 20_000, 5000)))
    write(file_sink(path, fsync=fsync), batch(20_000, 20_001))
    assert ids(path.read_bytes()) == list(range(20_001))
    assert b'{"id":7,"key":{"id":7},"before":null,"after":{"id":7,"note":"\xc3\xa9"}' in (
        path.read_bytes()
    )


def test_a_batch_for_which_the_format_has_no_message_writes_nothing(tmp_path: Path) -> None:
    truncate = Batch([Event("1", "t", TABLE, Images(), TRANSACTION)], Position("0/2"))
    write(file_sink(tmp_path / "events"), truncate)
    assert (tmp_path / "events").read_bytes() == b""


def test_every_batch_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    path = tmp_path / "events"
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(path.read_bytes()))
    write(file_sink(path), batch(0, 2), batch(2, 3))
    assert [ids(data) for data in synced] == [[], [0, 1], [0, 1, 2]]
    write(file_sink(path, fsync=False), batch(3, 4))
    assert len(synced) == 3


def test_the_loop_goes_on_while_the_disk_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone_on = threading.Event()
    seen: list[bool] = []

    async def main() -> None:
        async with file_sink(tmp_path / "events") as sink:
            monkeypatch.setattr(os, "fsync", lambda fd: seen.append(gone_on.wait(5)))
            writing = asyncio.create_task(sink.write(batch(0, 5)))
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.01, gone_on.set)
            await writing

    asyncio.run(main())
    assert seen == [True]


@pytest.mark.parametrize("torn", [b"{", b'{"id":9', b"x" * (2 * BLOCK), b"x" * (BLOCK - 1), b"\0"])
@pytest.mark.parametrize("before", [0, 3])
def test_a_torn_last_line_is_cut(
    torn: bytes, before: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "events"
    write(file_sink(path), batch(0, before), batch(before, before))
    path.write_bytes(path.read_bytes() + torn)
    with caplog.at_level(logging.WARNING):
        write(file_sink(path), batch(before, before + 1))
    assert ids(path.read_bytes()) == list(range(before + 1))
    assert f"cut {len(torn)} bytes" in caplog.text


@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_a_whole_last_line_stays(length: int, tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"x" * (length - 1) + b"\n")
    write(file_sink(path))
    assert path.stat().st_size == length


def endless_writes(path: str) -> None:
    async def main() -> None:
        async with file_sink(Path(path), fsync=False) as sink:
            for first in range(0, 10**9, 500):
                await sink.write(batch(first, first + 500, "x" * 500))
                say(str(first + 500))

    asyncio.run(main())


@pytest.mark.parametrize("count", [3, 11])
def test_kill_leaves_what_was_written_and_no_torn_line(count: int, tmp_path: Path) -> None:
    path = tmp_path / "events"
    with child(endless_writes, path) as process:
        written = [int(heard(process)) for _ in range(count)][-1]
        process.kill()
    write(file_sink(path))
    kept = ids(path.read_bytes())
    assert len(kept) >= written
    assert kept == list(range(len(kept)))


def disk_full(path: str) -> None:
    async def main() -> None:
        async with file_sink(Path(path)) as sink:
            await sink.write(batch(0, 10))
            good = os.stat(path).st_size
            with disk_of(good + 100):
                for _ in range(2):
                    try:
                        await sink.write(batch(10, 20))
                    except TransientError as error:
                        say(error.message)
                    say(str(os.stat(path).st_size - good))
            await sink.write(batch(10, 20))

    asyncio.run(main())


def test_c14_a_full_disk_passes_and_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "events"
    with child(disk_full, path) as process:
        for _ in range(2):
            message = f"sink.path: {path} cannot be written: {os.strerror(errno.EFBIG)}"
            assert [heard(process), heard(process)] == [message, "0"]
        assert process.wait() == 0
    assert ids(path.read_bytes()) == list(range(20))


@pytest.mark.parametrize("failing", [["fsync"], ["fsync", "ftruncate"]])
def test_a_batch_is_written_anew_after_a_failing_disk(
    failing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events"

    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def main() -> None:
        async with file_sink(path) as sink:
            await sink.write(batch(0, 5))
            with monkeypatch.context() as patch:
                for call in failing:
                    patch.setattr(os, call, fail)
                with pytest.raises(TransientError, match="Input"):
                    await sink.write(batch(5, 9))
            await sink.write(batch(5, 9))

    asyncio.run(main())
    assert ids(path.read_bytes()) == list(range(9))


@pytest.mark.parametrize("rotate", [Path.unlink, lambda path: path.rename(f"{path}.1")])
def test_a_rotated_file_is_made_anew(rotate: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "events"

    async def main() -> None:
        async with file_sink(path) as sink:
            await sink.write(batch(0, 5))
            rotate(path)
            await sink.write(batch(5, 9))

    asyncio.run(main())
    assert ids(path.read_bytes()) == [5, 6, 7, 8]


def test_a_file_emptied_in_place_is_written_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "events"

    async def main() -> None:
        async with file_sink(path) as sink:
            await sink.write(batch(0, 5))
            os.truncate(path, 0)
            await sink.write(batch(5, 9))

    asyncio.run(main())
    assert ids(path.read_bytes()) == [5, 6, 7, 8]


def test_c11_a_file_has_one_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "events"
    with path.open("wb") as other:
        other.write(b"half a li")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"^sink\.path: .*events.*another pipeline"):
            write(file_sink(path))
        assert path.read_bytes() == b"half a li"
    write(file_sink(path), batch(0, 1))
    assert ids(path.read_bytes()) == [0]


def test_a_path_that_cannot_be_used_is_a_configuration_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "no" / "events", Path("/dev/null")):
        with pytest.raises(ConfigError, match=f"^sink.path: {path} cannot be used: ") as caught:
            write(file_sink(path))
        assert caught.value.mend


def test_the_file_is_made_with_the_usual_rights(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    write(file_sink(tmp_path / "events"))
    os.umask(umask)
    assert (tmp_path / "events").stat().st_mode & 0o777 == 0o644


def test_the_configuration_is_read_from_text() -> None:
    config = FileConfig.model_validate({"path": "events", "fsync": "false"})
    assert (config.path, config.fsync) == (Path("events"), False)
    for wrong in ({}, {"path": "events", "fsync": "perhaps"}, {"path": "events", "file": "x"}):
        with pytest.raises(ValidationError):
            FileConfig.model_validate(wrong)


def stdout_sink() -> StdoutSink:
    return StdoutSink(StdoutConfig(), Setup("orders"), FORMAT)


def to_stdout(count: str) -> None:
    async def main() -> None:
        async with stdout_sink() as sink:
            for first in range(0, int(count), 1000):
                await sink.write(batch(first, first + 1000))

    asyncio.run(main())


def test_standard_output_holds_the_lines_and_nothing_else() -> None:
    with child(to_stdout, 20_000) as process:
        out, err = process.communicate()
    assert ids(out) == list(range(20_000))
    assert (err, process.returncode) == (b"", 0)


def two_to_stdout() -> None:
    async def one(first: int) -> None:
        async with stdout_sink() as sink:
            await sink.write(batch(first, first + 20_000))

    async def main() -> None:
        both = asyncio.gather(one(0), one(100_000))
        while not held_by(1):
            await asyncio.sleep(0.05)
        say("the pipe is full")
        await both

    asyncio.run(main())


def test_two_pipelines_do_not_mix_their_lines_on_standard_output() -> None:
    with child(two_to_stdout) as process:
        assert heard(process) == "the pipe is full"
        written = ids(process.communicate()[0])
    assert [i for i in written if i < 100_000] == list(range(20_000))
    assert [i for i in written if i >= 100_000] == list(range(100_000, 120_000))


def ticking_to_stdout() -> None:
    async def tick() -> None:
        while True:
            say("tick")
            await asyncio.sleep(0.001)

    async def main() -> None:
        async with stdout_sink() as sink:
            ticks = asyncio.create_task(tick())
            await sink.write(batch(0, 20_000))
            ticks.cancel()
            say("written")

    asyncio.run(main())


def test_the_loop_goes_on_while_the_reader_of_the_pipe_stalls() -> None:
    with child(ticking_to_stdout) as process:
        # The pipe holds 64 KiB of more than 1 MB: nobody reads yet, and the loop ticks.
        assert {heard(process) for _ in range(200)} == {"tick"}
        out, err = process.communicate()
    assert ids(out) == list(range(20_000))
    assert err.endswith(b"written\n")


def held_by(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def stalled_for_good() -> None:
    async def main() -> None:
        async with stdout_sink() as sink:
            writing = asyncio.create_task(sink.write(batch(0, 20_000)))
            while not held_by(1):
                await asyncio.sleep(0.001)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            say(f"cancelled {writing.cancelled()}")

    asyncio.run(main())


def test_a_reader_that_never_reads_does_not_keep_the_process_from_ending() -> None:
    with child(stalled_for_good) as process:
        assert heard(process) == "cancelled True"
        assert process.wait(20) == 0


def until_the_reader_goes() -> None:
    async def main() -> None:
        async with stdout_sink() as sink:
            for first in range(10**9):
                await sink.write(batch(first, first + 1))

    try:
        asyncio.run(main())
    except PermanentError as error:
        say(error.message)


def test_a_reader_that_has_gone_ends_the_pipeline() -> None:
    with child(until_the_reader_goes) as process:
        assert process.stdout is not None
        assert ids(process.stdout.readline()) == [0]
        process.stdout.close()
        assert heard(process) == "the program that reads standard output has gone"
        assert process.wait() == 0
        assert heard(process) == ""


def test_closed_standard_output_is_a_configuration_error() -> None:
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *command(to_stdout, 1000)]
    process = subprocess.run(shell, stderr=subprocess.PIPE, text=True)
    assert "ConfigError: sink: stdout cannot be written: standard output is cl" in process.stderr


def stdout_on_a_full_disk() -> None:
    async def main() -> None:
        async with stdout_sink() as sink:
            await sink.write(batch(0, 10))
            with disk_of(os.fstat(1).st_size + 100):
                try:
                    await sink.write(batch(10, 20))
                except TransientError as error:
                    say(error.message)
            await sink.write(batch(10, 20))

    asyncio.run(main())


def test_c14_standard_output_on_a_full_disk_has_whole_lines_only(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, child(stdout_on_a_full_disk, stdout=out) as process:
        assert heard(process).startswith("standard output cannot be written: ")
        assert process.wait() == 0
    kept = ids((tmp_path / "out").read_bytes())
    assert kept[:11] == list(range(11))
    assert kept[-10:] == list(range(10, 20))


def nonblocking_stdout() -> None:
    os.set_blocking(1, False)
    to_stdout("20000")


def test_standard_output_may_have_been_made_nonblocking() -> None:
    with child(nonblocking_stdout) as process:
        out, err = process.communicate()
    assert ids(out) == list(range(20_000))
    assert (err, process.returncode) == (b"", 0)
