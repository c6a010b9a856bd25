"""Rows of 1 MB: what a backfill of them holds in memory."""

from __future__ import annotations

from pathlib import Path

from benchmarks.contenders import BackfillToFile
from benchmarks.database import Database
from benchmarks.plan import Plan
from benchmarks.results import Wide

_TABLE = "rows_wide"


def wide(database: Database, plan: Plan, folder: Path) -> Wide:
    database.create_wide(_TABLE, plan.wide_rows)
    try:
        pipeline = BackfillToFile(database, folder)
        used = pipeline.run(_TABLE, _TABLE)
        return Wide(plan.wide_rows, pipeline.delivered(), used.peak)
    finally:
        database.remove(_TABLE)
