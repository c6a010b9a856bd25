"""Rows of a COPY by libpq's own calls: all of them, and an end whenever it is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, pq, sql

from pipelines import DEADLINE
from tailrace_postgres.copying import copied

ROWS = 50_000
TINY = sql.SQL("COPY (SELECT 1 FROM generate_series(1, {})) TO STDOUT").format(sql.Literal(ROWS))
"""Thousands of such rows fit into what libpq reads at once."""


def run(database: str, scenario: Callable[[AsyncConnection[Any]], Awaitable[None]]) -> None:
    async def main() -> None:
        async with await AsyncConnection.connect(database, autocommit=True) as connection:
            await asyncio.wait_for(scenario(connection), DEADLINE)

    asyncio.run(main())


def test_every_row_comes_and_others_get_on_meanwhile(database: str) -> None:
    async def scenario(connection: AsyncConnection[Any]) -> None:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(turn())
        async with connection.transaction():
            blocks = [lines async for lines in copied(connection, TINY)]
        other.cancel()
        assert [line for lines in blocks for line in lines] == [b"1\n"] * ROWS
        assert turns >= len(blocks)
        assert connection.info.transaction_status == pq.TransactionStatus.IDLE

    run(database, scenario)


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_it_ends_when_it_is_closed_early(database: str, blocks: int) -> None:
    async def scenario(connection: AsyncConnection[Any]) -> None:
        async with connection.transaction(), aclosing(copied(connection, TINY)) as rows:
            for _ in range(blocks):
                await anext(rows)
        assert connection.info.transaction_status == pq.TransactionStatus.IDLE
        assert await (await connection.execute("SELECT 2")).fetchone() == (2,)

    run(database, scenario)


def test_an_error_of_the_server_is_raised(database: str) -> None:
    failing = sql.SQL("COPY (SELECT 1 / (3 - n) FROM generate_series(1, 9) n) TO STDOUT").format()

    async def scenario(connection: AsyncConnection[Any]) -> None:
        async with connection.transaction(force_rollback=True):
            rows = copied(connection, failing)
            with pytest.raises(psycopg.errors.DivisionByZero):
                _ = [lines async for lines in rows]

    run(database, scenario)
