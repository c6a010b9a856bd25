"""What a network does to a connection. Each is a context: on leaving it the way is good again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from servers.proxy import Proxy

Fault = Callable[[Proxy], AbstractContextManager[None]]


@contextmanager
def cut(way: Proxy) -> Iterator[None]:
    way.cut()
    yield


@contextmanager
def reset(way: Proxy) -> Iterator[None]:
    way.reset()
    yield


@contextmanager
def freeze(way: Proxy) -> Iterator[None]:
    way.freeze()
    try:
        yield
    finally:
        way.thaw()


@contextmanager
def freeze_and_reset(way: Proxy) -> Iterator[None]:
    """What was on the way is lost, and what was delivered is not known."""
    with freeze(way):
        yield
        way.reset()


@contextmanager
def slow(way: Proxy) -> Iterator[None]:
    way.slow(30_000)
    try:
        yield
    finally:
        way.slow(None)


@contextmanager
def refuse(way: Proxy) -> Iterator[None]:
    way.refuse()
    way.cut()
    try:
        yield
    finally:
        way.accept()


FAULTS: tuple[Fault, ...] = (cut, reset, freeze, freeze_and_reset, slow, refuse)
