"""Findings that more than one part of a pipeline makes."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from tailrace.connector import Finding

SCARCE = 1 << 30
"""Bytes below which a disk counts as nearly full."""


def room(folder: Path) -> Finding:
    """How much is free on the disk of `folder`. Raises OSError if there is no such folder."""
    free = shutil.disk_usage(folder).free
    text = f"{free / (1 << 30):,.1f} GiB free in {folder}"
    if free >= SCARCE:
        return Finding("ok", "disk", text)
    text += ": once it is full, the pipeline waits"
    return Finding("warning", "disk", text, f"du -xsh {shlex.quote(str(folder))}/*")
