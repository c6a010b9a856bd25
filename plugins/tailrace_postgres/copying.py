"""COPY … TO STDOUT by libpq's own calls: a block of rows for each time the socket is readable.

psycopg's cursor awaits each row, which costs several times what reading it does (docs/adr/0008).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from psycopg import AsyncConnection, pq, sql
from psycopg.errors import error_from_result
from psycopg.generators import execute, fetch_many

_BLOCK = 1_000


async def copied(
    connection: AsyncConnection[Any], query: sql.Composed
) -> AsyncGenerator[list[bytes], None]:
    """The rows that `query`, a COPY TO STDOUT, gives: lines of its text format, in blocks.

    Raises psycopg.Error. The connection must be in a transaction, and be of no other use until
    the generator is exhausted or closed; closed early, it cancels the COPY, which ends the
    transaction with an error.
    """
    pgconn = connection.pgconn
    pgconn.send_query(query.as_bytes(connection))
    [result] = await connection.wait(execute(pgconn))
    if result.status != pq.ExecStatus.COPY_OUT:
        raise error_from_result(result)
    ended = False
    try:
        while not ended:
            lines, ended = _waiting(pgconn)
            if lines:
                yield lines
                await asyncio.sleep(0)  # others must get on, too
            elif not ended:
                await _readable(pgconn.socket)
    finally:
        if not ended:
            await connection.cancel_safe()
        while not ended:
            lines, ended = _waiting(pgconn)
            if not lines and not ended:
                await _readable(pgconn.socket)
        results = await connection.wait(fetch_many(pgconn))
    for result in results:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise error_from_result(result)


def _waiting(pgconn: pq.abc.PGconn) -> tuple[list[bytes], bool]:
    """What has arrived, up to a block, and whether it was the last."""
    lines: list[bytes] = []
    receive, append, consumed = pgconn.get_copy_data, lines.append, False
    while len(lines) < _BLOCK:
        length, data = receive(1)
        if length > 0:
            append(bytes(data))
            consumed = False
        elif length < 0:
            return lines, True
        elif not consumed:
            pgconn.consume_input()  # what has come meanwhile, before anybody waits for more
            consumed = True
        else:
            break
    return lines, False


async def _readable(socket: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(socket, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(socket)
