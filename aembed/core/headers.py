"""What the headers and the text of a reply say about waiting and limits. Nothing here raises.

A value that cannot be meant (negative, NaN, infinite, doubled, garbage, above 1e6 seconds) is as good as
none: a wrong hint costs more than a missing one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import inf

from aembed.types import Hints

_MOST_SECONDS = 1e6
_MOST_COUNT = 10**12
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15}")
_INTEGER = re.compile(r"[0-9]{1,13}(?:\.0{1,6})?")
_PART = r"(?:[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})\s?(?:ns|us|µs|μs|ms|s|m|h)"
_DURATION = re.compile(rf"(?:{_PART})+")
_DURATION_PART = re.compile(r"([0-9.]+)\s?([a-zµμ]+)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_IN_TEXT = re.compile(
    rf"\b(?:try again|retry|retrying)\s+(?:in|after)\s+(?:(?P<words>[0-9.]{{1,15}})\s*(?P<unit>milliseconds?|"
    rf"seconds?|minutes?|hours?)\b|(?P<go>(?:{_PART})+)(?![0-9a-z]))",
    re.IGNORECASE,
)
_WORDS = {"millisecond": 1e-3, "second": 1.0, "minute": 60.0, "hour": 3600.0}


@dataclass(frozen=True, slots=True)
class _Window:
    """One of the limits that a reply names: the organization's or the project's."""

    limit: int | None
    remaining: int | None
    reset: float | None

    @property
    def tightness(self) -> tuple[float, float]:
        return (_or_inf(self.remaining), _or_inf(self.limit))


def parse_hints(headers: Mapping[str, str], body: str = "") -> Hints:
    """The hints of one reply. Header names in lower case; `body` is the message of an error, read for
    "try again in 510ms" where the headers name no time."""
    requests, tokens = _window(headers, "requests"), _window(headers, "tokens")
    return Hints(
        retry_after=_retry_after(headers, body),
        should_retry={"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower()),
        limit_requests=requests.limit,
        remaining_requests=requests.remaining,
        reset_requests=requests.reset,
        limit_tokens=tokens.limit,
        remaining_tokens=tokens.remaining,
        reset_tokens=tokens.reset,
    )


def _retry_after(headers: Mapping[str, str], body: str) -> float | None:
    if not body and "retry-after" not in headers and "retry-after-ms" not in headers:
        return None
    milliseconds = _number(headers.get("retry-after-ms", ""))
    text = headers.get("retry-after", "")
    named = (
        None if milliseconds is None else _sane(milliseconds / 1000),
        parse_duration(text),
        _until(text, headers.get("date", "")),
        retry_after_in(body),
    )
    return next((seconds for seconds in named if seconds is not None), None)


def retry_after_in(message: str) -> float | None:
    """Seconds, from "Please try again in 1m30s" or "retry after 3 seconds"."""
    found = _IN_TEXT.search(message[:2000])
    if found is None:
        return None
    if found["go"]:
        return parse_duration(found["go"].lower())
    number = _number(found["words"].rstrip("."))
    return None if number is None else _sane(number * _WORDS[found["unit"].lower().rstrip("s")])


def parse_duration(text: str) -> float | None:
    """Seconds, from a Go duration (`6ms`, `1m30s`, `1h2m3.5s`) or plain seconds."""
    text = text.strip()
    number = _number(text)
    if number is None and len(text) <= 64 and _DURATION.fullmatch(text):
        number = sum(float(value) * _UNITS[unit] for value, unit in _DURATION_PART.findall(text))
    return None if number is None else _sane(number)


def _until(text: str, now: str) -> float | None:
    """Seconds from the reply's own clock to that date: ours may be an hour off."""
    then, start = _date(text), _date(now)
    if then is None or start is None or then < start:
        return None
    return _sane((then - start).total_seconds())


def _date(text: str) -> datetime | None:
    if not 16 <= len(text) <= 64:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def _window(headers: Mapping[str, str], unit: str) -> _Window:
    """The tighter of the organization's and the project's limit."""
    if f"x-ratelimit-limit-project-{unit}" not in headers and f"x-ratelimit-remaining-project-{unit}" not in headers:
        return _named(headers, unit)
    return min((_named(headers, unit), _named(headers, f"project-{unit}")), key=lambda window: window.tightness)


def _named(headers: Mapping[str, str], unit: str) -> _Window:
    limit = _count(headers.get(f"x-ratelimit-limit-{unit}", "")) or None
    remaining = _count(headers.get(f"x-ratelimit-remaining-{unit}", ""))
    reset = parse_duration(headers.get(f"x-ratelimit-reset-{unit}", ""))
    window = _Window(limit, remaining, reset)
    # Azure sends limit 0 and remaining 0 where it keeps no count.
    return replace(window, remaining=None) if limit is None and not remaining else window


def _or_inf(value: int | None) -> float:
    return inf if value is None else value


def _count(text: str) -> int | None:
    if not _INTEGER.fullmatch(text.strip()):
        return None
    count = int(float(text))
    return count if count <= _MOST_COUNT else None


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text.strip()) else None


def _sane(seconds: float) -> float | None:
    return seconds if 0 <= seconds <= _MOST_SECONDS else None
