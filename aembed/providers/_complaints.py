"""What a server says is wrong, read out of error bodies of many shapes. Nothing here raises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from aembed.core.headers import parse_duration
from aembed.providers._echoes import without_echoes

# Chosen: what services say by themselves fits into it; what is longer may quote a text of the user. Smaller, refusals
# would lose the numbers that they name at their end.
REASON_CHARACTERS = 300
_REASONS = ("message", "Message", "msg", "error", "detail", "description")
_KINDS = ("code", "type", "status", "error_type")
# The repeats have bounds, so that a body made to harm costs time in proportion to its length.
_REASON = re.compile(rf'"(?:{"|".join(_REASONS)})"\s{{0,8}}:\s{{0,8}}"((?:[^"\\]|\\.){{1,300}})')
"""In JSON that was cut short."""
_DELAYS = {
    "retryDelay": 1.0,
    "retry_delay": 1.0,
    "retryAfter": 1.0,
    "retry_after": 1.0,
    "retry_after_seconds": 1.0,
    "retryAfterMs": 1e-3,
    "retry_after_ms": 1e-3,
}
"""Fields of error bodies that say how long to wait, and seconds: Google's `"retryDelay": "12s"`, and gateways'."""
_NESTED = frozenset({"error", "errors", "detail", "details", "violations"})
# Computed: Google's `quotaId` lies five steps down (error, details, an item, violations, an item), and six where the
# whole is in a list, as of its streams. Smaller, it would not be found; without a bound a nest of lists would be
# followed to its end.
_DEEPEST = 7
# Five digits: no service takes 100,000 texts in a request, and a longer number counts something else.
_OFFENDER = re.compile(r"\binputs?(?:\[|\.)(\d{1,5})\b")


@dataclass(frozen=True, slots=True)
class Complaint:
    """What the body of an error says, whatever its shape. `structured`: it is JSON.

    `quotas` are the names of the limits that Google says were met; `delay` is a wait, in seconds, that has a field of
    its own.
    """

    reason: str = ""
    kinds: frozenset[str] = frozenset()
    param: str = ""
    offender: int | None = None
    codes: frozenset[int] = frozenset()
    structured: bool = False
    quotas: tuple[str, ...] = ()
    delay: float | None = None

    def is_of(self, *words: str) -> bool:
        return any(word in kind for kind in self.kinds for word in words)


def read_complaint(body: bytes) -> Complaint:
    """Reads `{"error": {...}}`, `{"error": "..."}`, `{"detail": ...}`, `{"message": ...}`, a list of them, HTML."""
    try:
        decoded = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        # Chosen: HTML and broken JSON say what they say in their first lines; all of it would be looked through
        # otherwise.
        text = without_echoes(body)[:4096].decode("utf-8", "replace")
        said = "; ".join(found[1] for found in _REASON.finditer(text)) if text.startswith(("{", "[")) else ""
        return Complaint(said or " ".join(re.sub(r"<[^<>]*>", " ", text).split())[:REASON_CHARACTERS])
    fields = list(_fields(decoded))
    location = next((value for name, value in fields if name == "loc" and isinstance(value, list)), [])
    reason = "; ".join(dict.fromkeys(value for name, value in fields if name in _REASONS and isinstance(value, str)))
    param = next((value for name, value in fields if name == "param" and isinstance(value, str)), "")
    kinds = [value for name, value in fields if name in _KINDS]
    return Complaint(
        reason=reason[:2000],
        kinds=frozenset(kind.lower() for kind in kinds if isinstance(kind, str)),
        param=param or _param(location),
        offender=_offender(param, reason, location),
        codes=frozenset(_codes(kinds)),
        structured=True,
        quotas=tuple(value for name, value in fields if name == "quotaId" and isinstance(value, str)),
        delay=max(_delays(fields), default=None),
    )


def _fields(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every name and value of the objects that an error is made of, outermost first."""
    if isinstance(value, list) and depth < _DEEPEST:
        # Chosen: pydantic names each text that is wrong, which may be thousands; the first eight say the same.
        for item in value[:8]:
            yield from _fields(item, depth + 1)
    elif isinstance(value, dict) and depth < _DEEPEST:
        for name, inner in value.items():
            yield name, inner
            if name in _NESTED:
                yield from _fields(inner, depth + 1)


def _delays(fields: list[tuple[str, Any]]) -> Iterator[float]:
    for name, value in fields:
        if name in _DELAYS and not isinstance(value, bool) and isinstance(value, str | int | float):
            seconds = parse_duration(str(value))
            if seconds is not None:
                yield seconds * _DELAYS[name]


def _codes(kinds: list[Any]) -> Iterator[int]:
    for kind in kinds:
        if isinstance(kind, str) and re.fullmatch(r"[1-5]\d\d", kind):
            yield int(kind)
        elif isinstance(kind, int):
            yield kind


def _param(location: list[Any]) -> str:
    """The field that pydantic blames: `["body", "dimensions"]`."""
    return next((str(part) for part in location if isinstance(part, str) and part != "body"), "")


def _offender(param: str, reason: str, location: list[Any]) -> int | None:
    """The position that a refusal names: `input[22]`, `$.input[22]`, `["body", "input", 22]`."""
    found = _OFFENDER.search(param) or _OFFENDER.search(reason[:REASON_CHARACTERS])
    if found:
        return int(found[1])
    if _param(location) == "input":
        return next((part for part in location if type(part) is int), None)
    return None
