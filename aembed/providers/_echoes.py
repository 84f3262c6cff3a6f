"""What a server repeats of a request in its refusal: texts of users, which belong in no message and no log.

FastAPI and pydantic, and so infinity, vLLM and whatever is written with them, answer 422 with all of `input`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

SHOWN = "[input]"
_NAMES = frozenset({"input", "inputs", "texts", "documents", "content", "contents", "prompt"})
_ECHO = re.compile(rb'"(?:' + b"|".join(name.encode() for name in sorted(_NAMES)) + rb')"\s{0,8}:\s{0,8}["\[{]')
# Chosen: twice as deep as anything in an error is read. Beyond it all is cut out, whatever it is.
_DEEPEST = 12


def without_echoes(body: bytes) -> bytes:
    """That body with what was sent taken out of it; one that is no whole JSON ends where the first echo begins."""
    try:
        decoded = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        echo = _ECHO.search(body)
        return body[: echo.start()] if echo else body
    # A body without such a name stays as its server wrote it: encoded anew, its spelling would be ours.
    return msgspec.json.encode(_cut(decoded)) if _ECHO.search(body) else body


def _cut(value: Any, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        return SHOWN
    if isinstance(value, list):
        return [_cut(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {
            name: SHOWN if name in _NAMES and isinstance(inner, str | list | dict) else _cut(inner, depth + 1)
            for name, inner in value.items()
        }
    return value
