"""Pipelines for one test: killed at its end, whatever they are doing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e.command import Cdc


@pytest.fixture
def cdc(tmp_path: Path, database: str) -> Iterator[Callable[..., Cdc]]:
    """Makes pipelines from the test's database: ``cdc("sink=nats", …, name=…)``."""
    with ExitStack() as made:
        yield lambda *keys, dsn=database, **options: made.enter_context(
            Cdc(tmp_path, dsn, *keys, **options)
        )
