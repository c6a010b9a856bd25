"""The command ``cdc``. `app` is its grammar and imports nothing heavy; each verb has a module."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``cdc`` and leave with its exit status."""
    from tailrace.cli.app import execute

    sys.exit(execute(arguments))
