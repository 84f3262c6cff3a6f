"""Providers quote the texts that they refuse; what users wrote does not belong in messages and logs."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix

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
        quoted = commonprefix([message[at:], text])
        message = message[:at] + SHOWN + message[at + len(quoted) :]
        at = message.find(start, at + len(SHOWN))
    return message
