"""What the tests of ``cdc check`` share: findings looked through, and mending steps carried out."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines import sql
from tailrace.connector import Finding


def troubles(findings: Sequence[Finding]) -> list[Finding]:
    """Those above ok; every one of them must say how to mend it."""
    found = [finding for finding in findings if finding.level != "ok"]
    assert all(finding.mend for finding in found), found
    return found


def the(level: str, subject: str, findings: Sequence[Finding]) -> Finding:
    """The one finding about `subject`, which must be of `level`."""
    [found] = [finding for finding in findings if finding.subject == subject]
    assert found.level == level, found
    return found


def said(subject: str, findings: Sequence[Finding]) -> str:
    """All that is said about `subject`; it must be well."""
    found = [finding for finding in findings if finding.subject == subject]
    assert not troubles(found), found
    return "\n".join(finding.text for finding in found)


def carry_out(dsn: str, finding: Finding) -> None:
    """Run the SQL of a mending step, as somebody who has copied it would."""
    assert finding.mend
    statements = finding.mend.partition(" -- ")[0]
    sql(dsn, *(statement for part in statements.split(";") if (statement := part.strip())))
