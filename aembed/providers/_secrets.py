"""Keys: checked before they are used, shown nowhere, cut out of what a server echoes."""

from __future__ import annotations

import re
from typing import NoReturn

from aembed.errors import ConfigError

# Chosen: runs of seven characters stand in other words by accident, and of nine a server could show eight.
_LEAST_REVEALING = 8
_WORD = re.compile(r"[^\s\"'`<>,;:(){}]+")
_MASKED = re.compile(r"\*{3,}|\.{3,}|…|•{3,}")


class Secret:
    """A header value that no repr, log, traceback or pickle shows."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled; build the provider where it is used")

    def reveal(self) -> str:
        return self._value

    def bearer(self) -> Secret:
        return Secret(f"Bearer {self._value}")

    def redact(self, text: str) -> str:
        """That text without the key, and without words that show a part of it (`sk-abc***wxyz`).

        Of a short key, which others may hold by accident, whole words alone.
        """
        if len(self._value) < _LEAST_REVEALING:
            return re.sub(rf"(?<![\w-]){re.escape(self._value)}(?![\w-])", "[redacted]", text)
        return _WORD.sub(lambda word: "[redacted]" if self._is_shown_by(word[0]) else word[0], text)

    def _is_shown_by(self, word: str) -> bool:
        key = self._value
        if _MASKED.search(word) and word[:3] == key[:3]:
            return True
        return any(key[i : i + _LEAST_REVEALING] in word for i in range(len(key) - _LEAST_REVEALING + 1))


def check_key(value: str, name: str) -> Secret:
    """The key without surrounding white space. Raises ConfigError, which does not show it, for one that no
    header can carry."""
    key = value.strip()
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise ConfigError(f"{name} is empty or holds a space, a line break or a character that is not ASCII")
    return Secret(key)
