"""The position is lost: what happened, and the two ways out."""

from __future__ import annotations

from tailrace.errors import PositionLostError


def lost(what: str, slot: str, *, restore: str, gone: bool = False) -> PositionLostError:
    """`restore` is the way without a gap; the other accepts it. `gone`: there is no such slot."""
    drop = "" if gone else f"SELECT pg_drop_replication_slot('{slot}'), "
    return PositionLostError(
        what,
        mend=f"either {restore}; or accept that changes are missing: start with"
        f" on_lost=resnapshot, or {drop}delete the checkpoint (cdc checkpoint delete) and start"
        " with snapshot=initial",
    )


def publication_lost(name: str, slot: str, statement: str | None = None) -> PositionLostError:
    """The publication is gone, or was when what must be read next was written.

    The server reads the log with the catalog of then: making it now does not bring that back.
    """
    what = "did not exist when what comes next was written"
    restore = "restore a database, slot and checkpoint from before it was dropped"
    if statement is not None:
        what = "is gone"
        restore = f"if nothing was written since, run {statement}; and start again"
    return lost(
        f"publication {name!r} {what}: without it there are no changes", slot, restore=restore
    )
