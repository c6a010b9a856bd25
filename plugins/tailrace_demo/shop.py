"""The demo's shop: its tables, the rows that are there from the start, and a few busy seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import LiteralString

DATABASE: LiteralString = "shop"

# `orders` has its whole old row in the log, so that the demo shows what became of what.
SCHEMA: LiteralString = """
CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL, city text, since date NOT NULL);
CREATE TABLE products (sku text PRIMARY KEY, name text NOT NULL, price numeric(10,2) NOT NULL);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers,
    status text NOT NULL, placed timestamptz NOT NULL DEFAULT now());
CREATE TABLE order_lines (order_id bigint NOT NULL, line int NOT NULL, sku text NOT NULL,
    quantity int NOT NULL, PRIMARY KEY (order_id, line));
CREATE TABLE carts (id bigint PRIMARY KEY, items jsonb NOT NULL);
ALTER TABLE orders REPLICA IDENTITY FULL;
INSERT INTO customers VALUES (1, 'Ada', 'London', '2021-03-01'),
    (2, 'Grace', 'New York', '2022-07-15'), (3, 'Edsger', 'Rotterdam', '2023-11-30');
INSERT INTO products VALUES ('mug', 'Mug', 8.50), ('pen', 'Pen', 1.20), ('lamp', 'Lamp', 39.00);
INSERT INTO orders VALUES (1, 1, 'sent', '2026-01-10 09:00+00'),
    (2, 3, 'new', '2026-01-11 10:30+00');
INSERT INTO order_lines VALUES (1, 1, 'mug', 2), (1, 2, 'pen', 10), (2, 1, 'lamp', 1);
INSERT INTO carts VALUES (1, '{"mug": 1}'), (2, '{"pen": 3, "lamp": 1}');
"""
ROWS = 13
"""How many rows SCHEMA puts into the tables."""

ROUNDS = 5
BURST = 20_000
BURST_SQL: LiteralString = """
INSERT INTO order_lines SELECT 1000000 + n / 10, mod(n, 10), 'pen', 1 + mod(n, 7)
FROM generate_series(1, %s) AS n
"""

Statement = tuple[LiteralString, tuple[object, ...]]


@dataclass(frozen=True)
class Transaction:
    """Statements to be committed together, and how many events they make."""

    statements: tuple[Statement, ...]
    events: int


def busy() -> Iterator[Transaction]:
    """A few seconds of trade, transaction by transaction."""
    for number in range(1, ROUNDS + 1):
        yield from _customer(100 + number, 10 + number, number)
    yield _one("TRUNCATE carts")


def _customer(customer: int, order: int, number: int) -> Iterator[Transaction]:
    yield _one("INSERT INTO customers VALUES (%s, %s, NULL, now())", customer, f"Guest {number}")
    yield Transaction(
        (
            ("INSERT INTO orders VALUES (%s, %s, 'new')", (order, customer)),
            ("INSERT INTO order_lines VALUES (%s, 1, 'lamp', %s)", (order, number)),
            ("INSERT INTO order_lines VALUES (%s, 2, 'pen', 5)", (order,)),
        ),
        events=3,
    )
    yield _one("INSERT INTO carts VALUES (%s, '{\"mug\": 1}')", number + 2)
    yield _one("UPDATE orders SET status = 'paid' WHERE id = %s", order)
    yield _one("UPDATE products SET price = price * 1.05 WHERE sku = 'lamp'")
    yield _one("UPDATE products SET sku = %s WHERE name = 'Mug'", f"mug-{number}")
    yield _one("DELETE FROM order_lines WHERE order_id = %s AND line = 2", order)
    yield _one("UPDATE orders SET status = 'sent' WHERE id = %s", order)


def _one(statement: LiteralString, *parameters: object) -> Transaction:
    return Transaction(((statement, parameters),), events=1)
