"""Table patterns: ``public.orders``, ``public.*``, ``!public.log_*``, as in ``source.tables``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


class Patterns:
    """Matches table labels (``schema.table``). ``*`` stands for any run of characters.

    A label matches if some pattern matches and none that begins with ``!`` does. With exclusions
    alone everything else matches. Case counts.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.texts = tuple(patterns)
        self._include = [_compile(text) for text in patterns if not text.startswith("!")]
        self._exclude = [_compile(text[1:]) for text in patterns if text.startswith("!")]

    @property
    def everything(self) -> bool:
        return "*.*" in self.texts and not self._exclude

    def matches(self, label: str) -> bool:
        included = any(p.fullmatch(label) for p in self._include) or not self._include
        return included and not any(p.fullmatch(label) for p in self._exclude)

    def unmatched(self, labels: Iterable[str]) -> list[str]:
        """The including patterns that match none of `labels`."""
        known = list(labels)
        including = [text for text in self.texts if not text.startswith("!")]
        pairs = zip(including, self._include, strict=True)
        return [text for text, p in pairs if not any(p.fullmatch(label) for label in known)]


def _compile(pattern: str) -> re.Pattern[str]:
    if "." not in pattern:
        raise ValueError(f"{pattern!r} has no dot: write schema.table, such as public.{pattern}")
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)
