"""Writes rows at a steady pace: ``python -m benchmarks.writer DSN TABLE RATE ROWS SECONDS``.

RATE transactions a second of ROWS rows each; `at` is the clock when a row was written. Prints how
many rows it wrote and at what rate.
"""

from __future__ import annotations

import sys
import time

import psycopg

_INSERT = """
INSERT INTO {table}
SELECT i, i %% 1000, 'name ' || i, (i %% 100000) / 100.0, clock_timestamp(),
       rpad('note ' || i, 60, 'x'), '{{"number": 1, "text": "some"}}'
FROM generate_series(%s::bigint, %s::bigint) AS i"""


def write(dsn: str, table: str, rate: int, rows: int, seconds: float) -> tuple[int, float]:
    """How many rows were written, and how many of them a second."""
    insert = _INSERT.format(table=table).encode()
    with psycopg.connect(dsn, autocommit=True) as connection, connection.cursor() as cursor:
        start = time.perf_counter()
        transactions = int(rate * seconds)
        for n in range(transactions):
            early = start + n / rate - time.perf_counter()
            if early > 0:
                time.sleep(early)
            cursor.execute(insert, (n * rows + 1, (n + 1) * rows), prepare=True)
        elapsed = time.perf_counter() - start
    return transactions * rows, transactions * rows / elapsed


def command(dsn: str, table: str, *, rate: int, rows: int, seconds: float) -> list[str]:
    words = (dsn, table, str(rate), str(rows), str(seconds))
    return [sys.executable, "-m", "benchmarks.writer", *words]


if __name__ == "__main__":
    dsn, table, rate, rows, seconds = sys.argv[1:]
    print(*write(dsn, table, int(rate), int(rows), float(seconds)))
