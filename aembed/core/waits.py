"""This module reads how long a reply asks to wait: in its headers, in its message, until a date. Nothing here raises.

A value that cannot be meant (negative, NaN, infinite, doubled, garbage, above 1e6 seconds) is as good as
none: a wrong hint costs more than a missing one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Chosen: 1e6 seconds are eleven days, and no limit waits longer,
# but a timestamp in the place of a wait is 1,700 times that.
_MOST_SECONDS = 1e6
# The year 2001, which no wait reaches.
_EPOCH_SECONDS = 1e9
# The patterns bound their digits, so that a header of a megabyte costs nothing, and float() of it is never infinite.
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15}")
_PART = r"(?:[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})\s?(?:ns|us|µs|μs|ms|s|m|h)"
_DURATION = re.compile(rf"(?:{_PART})+")
_DURATION_PART = re.compile(r"([0-9.]+)\s?([a-zµμ]+)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_IN_WORDS = r"([0-9.]{1,15})\s*(milliseconds?|seconds?|secs?|minutes?|mins?|hours?)\b"
_IN_TEXT = re.compile(
    r"\b(?:(?:try again|retry|retrying|available|allowed|resets?|replenished)\s+(?:in|after)|"
    r"wait(?:\s+(?:for|at least))?)\s+"
    rf"(?:(?P<words>{_IN_WORDS}(?:(?:,| and)?\s+{_IN_WORDS}){{0,2}})|(?P<go>(?:{_PART})+)(?![0-9a-z])|"
    r"(?P<clock>\d{1,3}:\d\d:\d\d)\b)",
    re.IGNORECASE,
)
_WORD_PART = re.compile(_IN_WORDS, re.IGNORECASE)
_WORDS = {"millisecond": 1e-3, "second": 1.0, "sec": 1.0, "minute": 60.0, "min": 60.0, "hour": 3600.0}
# Azure sends `retry-after` and `retry-after-ms` in one reply; which of them is believed is decided in read_retry_after.
_WAITS = {
    "retry-after-ms": 1e-3,
    "retry-after": 1.0,
    "x-amz-retry-after": 1e-3,
    "x-retry-after": 1.0,
    "x-ratelimit-retry-after": 1.0,
    "x-rate-limit-retry-after-seconds": 1.0,
    "llm_provider-retry-after": 1.0,
    "llm_provider-retry-after-ms": 1e-3,
}
"""The headers that name a wait, and the seconds of their unit: those of OpenAI, of AWS (milliseconds), and of the
provider behind a litellm proxy."""


def read_retry_after(headers: Mapping[str, str], body: str, delay: float | None) -> float | None:
    """The larger of the waits that the headers or the body name; of the same wait in two precisions the finer one."""
    waits = [_wait(headers, name) for name in headers if name in _WAITS]
    named = [wait for wait in waits if wait is not None]
    if not named:
        said = retry_after_in(body) if body else None
        named = [wait for wait in (said, None if delay is None else _sane_seconds(delay)) if wait is not None]
    if not named:
        return None
    # Azure sends `retry-after: 1` beside `retry-after-ms: 0`: a zero is no finer precision, so the larger one holds.
    least, most = min(named), max(named)
    return least if least > 0.0 and most - least < 1.0 else most


def _wait(headers: Mapping[str, str], name: str) -> float | None:
    text, unit = headers[name], _WAITS[name]
    if unit != 1.0:
        number = _number(text)
        return None if number is None else _sane_seconds(number * unit)
    seconds = parse_duration(text)
    if seconds is not None:
        return seconds
    # A date is told by the reply's own clock, because the clock of this machine may be an hour off.
    then, now = _date(text), _date(headers.get("date", ""))
    return None if then is None or now is None or then < now else _sane_seconds((then - now).total_seconds())


def retry_after_in(message: str) -> float | None:
    """Seconds, from "Please try again in 1m30s", "wait 1 minute 30 seconds" or "replenished in 00:01:30"."""
    # Chosen: messages with a wait are a few hundred characters long; the bound keeps the search short in any text.
    found = _IN_TEXT.search(message[:2000])
    if found is None:
        return None
    if found["go"]:
        return parse_duration(found["go"].lower())
    if found["clock"]:
        hours, minutes, seconds = map(int, found["clock"].split(":"))
        return _sane_seconds(3600.0 * hours + 60.0 * minutes + seconds)
    parts = [
        (_number(value.rstrip(".")), _WORDS[unit.lower().rstrip("s")])
        for value, unit in _WORD_PART.findall(found["words"])
    ]
    known = [number * seconds for number, seconds in parts if number is not None]
    return _sane_seconds(sum(known)) if len(known) == len(parts) else None


def parse_duration(text: str) -> float | None:
    """Seconds, from a Go duration (`6ms`, `1m30s`, `1h2m3.5s`) or plain seconds."""
    text = text.strip()
    number = _number(text)
    if number is None and len(text) <= 64 and _DURATION.fullmatch(text):
        number = sum(float(value) * _UNITS[unit] for value, unit in _DURATION_PART.findall(text))
    return None if number is None else _sane_seconds(number)


def seconds_of_reset(text: str, date: str) -> float | None:
    """A duration, or the time at which a window ends: seconds since 1970, or milliseconds (GitHub, OpenRouter)."""
    number, now = _number(text), _date(date)
    if number is None or number < _EPOCH_SECONDS:
        return parse_duration(text)
    end = number / 1000 if number >= 1000 * _EPOCH_SECONDS else number
    return None if now is None else _sane_seconds(end - now.timestamp())


def _date(text: str) -> datetime | None:
    # An HTTP date has 24 to 29 characters; a bare number must not be taken for one.
    if not 16 <= len(text) <= 64:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _sane_seconds(seconds: float) -> float | None:
    return seconds if 0 <= seconds <= _MOST_SECONDS else None
