"""What the user may publish and hear: the server's own words against what is needed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from tailrace.connector import Finding
from tailrace_nats.subjects import covers, overlap


class Rule(Struct, frozen=True):
    """Patterns. Where `allow` is empty everything is allowed that is not denied."""

    allow: Sequence[str] = ()
    deny: Sequence[str] = ()

    def all_of(self, shape: str) -> bool:
        """Whether every subject of the shape is permitted."""
        allowed = not self.allow or any(covers(pattern, shape) for pattern in self.allow)
        return allowed and not any(overlap(pattern, shape) for pattern in self.deny)

    def any_of(self, shape: str) -> bool:
        """Whether a subject of the shape may be permitted."""
        allowed = not self.allow or any(overlap(pattern, shape) for pattern in self.allow)
        return allowed and not any(covers(pattern, shape) for pattern in self.deny)


class Permissions(Struct, frozen=True):
    publish: Rule = Rule()
    subscribe: Rule = Rule()


def missing(found: Permissions, publish: Sequence[str], subscribe: str) -> Iterator[Finding]:
    """A finding for each subject or shape that the user lacks, wholly or in part."""
    wanted = [("publish", found.publish, shape) for shape in publish]
    for verb, rule, shape in [*wanted, ("subscribe", found.subscribe, subscribe)]:
        mend = f'in the permissions of the user: {verb}: {{ allow: ["{shape}"] }}'
        if not rule.any_of(shape):
            yield Finding("error", "permissions", f"the user may not {verb} on {shape}", mend)
        elif not rule.all_of(shape):
            text = f"the user may {verb} on a part of {shape} only"
            yield Finding("warning", "permissions", text, mend)
