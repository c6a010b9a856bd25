"""``python -m benchmarks``: how fast Tailrace is, beside other programs on the same machine."""
