"""Failure points: places where a test may make the process die, fail or hang.

``TAILRACE_FAILPOINT=name[:n]:kill|raise|hang`` arms one: at its n-th passing (the first without n)
the process kills itself, TransientError is raised, or everything stops. Unarmed, passing one costs
a comparison. Names: ``read`` (a batch was read, not yet written), ``durable`` (written, not yet
saved), ``saved`` (saved, not yet released), ``chunk`` (a chunk was read, not yet emitted).
"""

from __future__ import annotations

import os
import signal
import time

from tailrace.errors import ConfigError, TransientError

_ACTIONS = ("kill", "raise", "hang")


class _Armed:
    def __init__(self, text: str) -> None:
        name, *count, action = text.split(":")
        if action not in _ACTIONS or len(count) > 1 or not all(n.isdigit() for n in count):
            raise ConfigError(
                f"TAILRACE_FAILPOINT: {text!r} is not name[:n]:action",
                mend=f"the actions are {', '.join(_ACTIONS)}",
            )
        self.name = name
        self.left = int(count[0]) if count else 1
        self.action = action

    def strike(self) -> None:
        self.left -= 1
        if self.left != 0:
            return
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.action == "raise":
            raise TransientError(f"failpoint {self.name}")
        time.sleep(1 << 20)


_text = os.environ.get("TAILRACE_FAILPOINT")
_armed = _Armed(_text) if _text else None


def failpoint(name: str) -> None:
    """Strikes if this point is armed and its turn has come."""
    if _armed is not None and _armed.name == name:
        _armed.strike()
