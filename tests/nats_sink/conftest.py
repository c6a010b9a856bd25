"""Servers with a configuration of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from servers.found import GivenNats, find_nats
from tailrace_demo.servers import Nats


@pytest.fixture
def configured(nats: Nats, folder: Path) -> Iterator[Callable[[str], Nats]]:
    """Makes a running server from text for its configuration file."""
    with ExitStack() as servers:
        made: list[Nats] = []

        def start(config: str) -> Nats:
            place = folder / f"nats-{len(made)}"
            place.mkdir()
            server = find_nats(place)
            if isinstance(server, GivenNats):
                pytest.skip("the server that was given has a configuration of its own")
            server.config = config
            made.append(servers.enter_context(server))
            return server

        yield start
