"""What a server says is wrong, read out of error bodies of many shapes. Nothing here raises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from aembed.providers._echoes import without_echoes

REASON_CHARACTERS = 300
_REASONS = ("message", "msg", "error", "detail", "description")
_KINDS = ("code", "type", "status", "error_type")
_REASON = re.compile(rf'"(?:{"|".join(_REASONS)})"\s{{0,8}}:\s{{0,8}}"((?:[^"\\]|\\.){{1,300}})')
"""In JSON that was cut short."""
_NO_MONEY = re.compile(r"insufficient_|billing_|quota_exhausted|credit_balance|payment_required|account_deactivated")
_OFFENDER = re.compile(r"\binputs?(?:\[|\.)(\d{1,5})\b")


@dataclass(frozen=True, slots=True)
class Complaint:
    """What the body of an error says, whatever its shape. `structured`: it is JSON."""

    reason: str = ""
    kinds: frozenset[str] = frozenset()
    param: str = ""
    offender: int | None = None
    codes: frozenset[int] = frozenset()
    structured: bool = False

    @property
    def no_money(self) -> bool:
        return any(_NO_MONEY.match(kind) for kind in self.kinds)

    def is_of(self, *words: str) -> bool:
        return any(word in kind for kind in self.kinds for word in words)


def read_complaint(body: bytes) -> Complaint:
    """Reads `{"error": {...}}`, `{"error": "..."}`, `{"detail": ...}`, `{"message": ...}`, a list of them, HTML."""
    try:
        decoded = msgspec.json.decode(body)
    except (ValueError, RecursionError):
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
    )


def _fields(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every name and value of the objects that an error is made of, outermost first."""
    if isinstance(value, list) and depth < 4:
        for item in value[:8]:
            yield from _fields(item, depth + 1)
    elif isinstance(value, dict) and depth < 4:
        for name, inner in value.items():
            yield name, inner
            if name in ("error", "errors", "detail", "details"):
                yield from _fields(inner, depth + 1)


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
