"""Secrets: found in settings, masked where settings are shown, scrubbed from all other output."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

MASK = "***"

_USERINFO = re.compile(r"(?P<scheme>\w[\w+.-]*)://(?P<userinfo>[^\s]*)@")
_SPLIT = re.compile(r"(,(?=\w[\w+.-]*://))")
_WORD = re.compile(
    r"(?P<key>\b(?:\w+_)?(?:(?:ssl)?password|passwd|token|secret|(?:api|client|server)_key)\s*=\s*)"
    r"(?P<value>'(?:[^'\\]|\\.)*'|[^\s&]+)",
    re.IGNORECASE,
)
_URL = re.compile(r"\s*\w[\w+.-]*://")
_DSN = re.compile(r"://|\b(host|hostaddr|service|dbname|user)\s*=")
_DATABASES = ("postgres", "mysql", "mariadb", "mongodb")
_SHORT = 4


def mask(text: str) -> str:
    """`text` with each password of a URL or keyword DSN in it replaced by ``***``."""
    return "".join(_WORD.sub(rf"\g<key>{MASK}", _USERINFO.sub(_masked, p)) for p in _urls(text))


def mask_secret(text: str) -> str:
    """What of a secret value may be shown: a DSN without its password, else nothing."""
    return mask(text) if is_address(text) else MASK


def is_address(text: str) -> bool:
    """Whether `text` is a URL or keyword DSN: only the passwords in it are secret.

    A URL with a space in it is none, and its password cannot be told from the rest.
    """
    if _URL.match(text) and re.search(r"\s", text.strip()):
        return False
    return _DSN.search(text) is not None


def passwords(text: str) -> set[str]:
    """The passwords in the URLs and keyword DSNs of `text`, as written and as meant."""
    found: set[str] = set()
    for part in _urls(text):
        for match in _USERINFO.finditer(part):
            user, colon, password = match["userinfo"].partition(":")
            found.add(password if colon else user if _is_token(match["scheme"]) else "")
        for match in _WORD.finditer(_USERINFO.sub("", part)):
            found |= {match["value"], match["value"].strip("'")}
    return {form for text in found for form in (text, unquote(text))} - {""}


def _urls(text: str) -> list[str]:
    return _SPLIT.split(text)


def _masked(match: re.Match[str]) -> str:
    user, colon, _ = match["userinfo"].partition(":")
    if colon:
        user = f"{user}:{MASK}"
    elif _is_token(match["scheme"]):
        user = MASK
    return f"{match['scheme']}://{user}@"


def _is_token(scheme: str) -> bool:
    """Whether a URL's user part without a colon is a token; a database's is a user."""
    return not scheme.lower().startswith(_DATABASES)


class Scrubber:
    """Takes known secrets out of text. Knows none at first."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._public: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def hide(self, secrets: Iterable[str], *, public: Iterable[str] = ()) -> None:
        """From now on scrub `secrets`, but for words that are public anyway.

        A password that is also the name of the database's user tells nobody anything as a bare
        word; without this rule half of every message would go.
        """
        self._secrets |= {secret for secret in secrets if secret}
        self._public |= set(public)
        hidden = sorted(self._secrets - self._public, key=len, reverse=True)
        forms = [_pattern(secret) for secret in hidden]
        self._pattern = re.compile("|".join(forms)) if forms else None

    def __call__(self, text: str) -> str:
        """`text` without any known secret, and without the password of any URL."""
        return self._pattern.sub(MASK, mask(text)) if self._pattern else mask(text)


def _pattern(secret: str) -> str:
    text = re.escape(secret)
    return text if len(secret) >= _SHORT else rf"(?<!\w){text}(?!\w)"
