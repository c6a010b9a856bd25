"""The proxy spoils connections in the way it is told to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from servers.proxy import Proxy

WAIT = 30.0


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=[listener], daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT)


def serve(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=send_back, args=[connection], daemon=True).start()


def send_back(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        while data := connection.recv(1 << 16):
            connection.sendall(data)


def connect(way: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", way.port), timeout=WAIT)


def exchange(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return receive(client, len(data))


def receive(client: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (part := client.recv(size - len(got))):
        got += part
    return got


def test_it_forwards(proxy: Callable[[int], Proxy], echo: int) -> None:
    data = bytes(range(256)) * 4096
    with connect(proxy(echo)) as client:
        sender = threading.Thread(target=client.sendall, args=[data])
        sender.start()
        assert receive(client, len(data)) == data
        sender.join()


def test_what_was_frozen_arrives_when_thawed(proxy: Callable[[int], Proxy], echo: int) -> None:
    way = proxy(echo)
    with connect(way) as client:
        assert exchange(client, b"before") == b"before"
        way.freeze()
        client.sendall(b"held")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(WAIT)
        way.thaw()
        assert receive(client, 4) == b"held"


def test_cut_ends_connections_and_takes_new_ones(proxy: Callable[[int], Proxy], echo: int) -> None:
    way = proxy(echo)
    with connect(way) as client, connect(way) as again:
        assert exchange(client, b"x") == exchange(again, b"x") == b"x"
        way.cut()
        assert client.recv(1) == again.recv(1) == b""
        assert way.connections == 0
    with connect(way) as client:
        assert exchange(client, b"y") == b"y"


def test_reset_is_a_reset(proxy: Callable[[int], Proxy], echo: int) -> None:
    way = proxy(echo)
    with connect(way) as client:
        assert exchange(client, b"x") == b"x"
        way.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_refused_until_accepted(proxy: Callable[[int], Proxy], echo: int) -> None:
    way = proxy(echo)
    with connect(way) as client:
        assert exchange(client, b"x") == b"x"
        way.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(way)
        assert exchange(client, b"y") == b"y"
    way.accept()
    with connect(way) as client:
        assert exchange(client, b"z") == b"z"


def test_slow_limits_the_rate(proxy: Callable[[int], Proxy], echo: int) -> None:
    way = proxy(echo)
    way.slow(20_000)
    with connect(way) as client:
        started = time.monotonic()
        assert len(exchange(client, b"x" * 10_000)) == 10_000
        # Never faster than the limit; a busy machine only makes it slower.
        assert time.monotonic() - started > 0.4
        way.slow(None)
        assert exchange(client, b"y" * 10_000) == b"y" * 10_000


def test_a_client_notices_that_nobody_is_behind(proxy: Callable[[int], Proxy]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with connect(proxy(port)) as client:
        assert client.recv(1) == b""
