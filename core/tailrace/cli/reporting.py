"""How the command ends badly: the one place where an error becomes text and an exit status."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator, Sequence

import click

from tailrace.cli.options import Options
from tailrace.errors import ConfigError, TailraceError
from tailrace.log import printable
from tailrace.redact import Scrubber

scrub = Scrubber()
"""Knows the secrets of this process; all that goes to stderr passes through it."""


def report(error: BaseException, options: Options) -> int:
    """Say what is wrong on stderr; the exit status that goes with it."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, click.ClickException):
        return _usage(error)
    leaves = list(_leaves(error))
    for leaf in leaves:
        if not isinstance(leaf, TailraceError):
            _trace(leaf, options)
            continue
        if options.verbose:
            _trace(leaf, options)
        _say(leaf, options)
    return next((e.exit_status for e in leaves if isinstance(e, TailraceError)), 1)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group, or the error."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def problems(error: TailraceError) -> Sequence[TailraceError]:
    return error.problems if isinstance(error, ConfigError) else (error,)


def _say(error: TailraceError, options: Options) -> None:
    for problem in problems(error):
        message = printable(scrub(problem.message))
        mend = printable(scrub(problem.mend)) if problem.mend else None
        if options.log_format == "json":
            line = {"level": "error", "message": message, "mend": mend}
            print(json.dumps(line | {"exit_status": error.exit_status}), file=sys.stderr)
        elif message:
            arrow = f"\n  -> {mend}" if mend else ""
            print(f"error: {message}{arrow}", file=sys.stderr)


def _trace(error: BaseException, options: Options) -> None:
    text = scrub("".join(traceback.format_exception(error)))
    if options.log_format == "json":
        message = f"unexpected error: {type(error).__name__}"
        text = json.dumps({"level": "error", "message": message, "error": text}) + "\n"
    else:
        text = "".join(printable(line) + "\n" for line in text.splitlines())
    sys.stderr.write(text)


def _usage(error: click.ClickException) -> int:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        print(error.ctx.get_usage(), file=sys.stderr)
        print(f"Try '{error.ctx.command_path} --help' for help.\n", file=sys.stderr)
    print(f"error: {printable(scrub(error.format_message()))}", file=sys.stderr)
    return error.exit_code
