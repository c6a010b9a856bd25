"""Logging for the command: to stderr, as text or as JSON, without secrets or control characters.

Libraries do not configure logging; only the command calls `configure`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

LogFormat = Literal["text", "json"]
Scrub = Callable[[str], str]

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CONTROLS = {
    **{code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))},
    **{ord(c): f"\\u{ord(c):04x}" for c in "\u2028\u2029\u202a\u202b\u202c\u202d\u202e"},
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}


def printable(text: str) -> str:
    """`text` on one line, with what would steer a terminal or forge a line escaped."""
    return text.translate(_CONTROLS)


class TextFormatter(logging.Formatter):
    """``2026-11-23T06:44:07.826Z info  message``; a traceback follows, indented."""

    def __init__(self, scrub: Scrub) -> None:
        super().__init__()
        self._scrub = scrub

    def format(self, record: logging.LogRecord) -> str:
        message = printable(self._scrub(record.getMessage()))
        lines = [f"{_when(record)} {record.levelname.lower():<7} {message}"]
        if record.exc_info:
            trace = self._scrub(self.formatException(record.exc_info))
            lines += ["    " + printable(line) for line in trace.splitlines()]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts, level, logger, message, what the record has extra, error."""

    def __init__(self, scrub: Scrub) -> None:
        super().__init__()
        self._scrub = scrub

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._scrub(record.getMessage()),
        }
        line |= {
            key: self._scrub(value) if isinstance(value, str) else value
            for key, value in vars(record).items()
            if key not in _PLAIN
        }
        if record.exc_info:
            line["error"] = self._scrub(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=True, default=str)


def _when(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at the moment: a live view puts itself in its place."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        raise AttributeError("always sys.stderr")


def configure(format: LogFormat, scrub: Scrub, *, verbose: bool = False) -> None:
    """Send the log of everything to stderr. Replaces what an earlier call has set up."""
    handler = _Stderr()
    handler.setFormatter(JsonFormatter(scrub) if format == "json" else TextFormatter(scrub))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # what it warns of, we raise
    logging.getLogger("tailrace").setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.captureWarnings(True)
