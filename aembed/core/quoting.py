"""Providers quote the texts that they refuse; what users wrote does not belong in messages and logs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

LEAST_CHARACTERS = 12
"""A shorter run may be there by accident."""
SHOWN = "[text]"


def without_quotes(message: str, texts: Sequence[str]) -> str:
    """The message with every quote of the start of one of these texts taken out."""
    for text in texts:
        start = text[:LEAST_CHARACTERS]
        if len(start) == LEAST_CHARACTERS:
            message = _without(message, text, start)
    return message


def _without(message: str, text: str, start: str) -> str:
    at = message.find(start)
    while at >= 0:
        quoted = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(message[at:], text, strict=False)))
        message = message[:at] + SHOWN + message[at + quoted :]
        at = message.find(start, at + len(SHOWN))
    return message
