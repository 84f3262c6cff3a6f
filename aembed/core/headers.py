"""This module reads what a reply says of waiting (see `waits.py`) and of limits, which its headers name.

Nothing here raises: a number that cannot be meant is as good as none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from aembed.core.header_names import usual_names
from aembed.core.waits import parse_duration, read_retry_after, seconds_of_reset
from aembed.types import Hints

# Chosen: the largest limit that is known is 4 * 10^9 tokens; far above that a number is garbage.
_MOST_COUNT = 10**12
_INTEGER = re.compile(r"[0-9]{1,13}(?:\.0{1,6})?")


MINUTE = 60.0
# Chosen: a pace out of a limit of a day would spread a job
# over that day; an hour is the longest that anybody waits for.
_LONG = 3_600.0
"""A window of more seconds sets no pace: it is used up, or it is not."""
# A month is taken as 30 days: it is compared with _LONG only, and sets no pace.
_SECONDS = {"second": 1.0, "minute": MINUTE, "hour": _LONG, "day": 86_400.0, "month": 30 * 86_400.0}
_UNIT_NAMES = {"req": "requests", "requests": "requests", "tokens": "tokens", "inputs": "texts", "texts": "texts"}
_WINDOWED = re.compile(
    r"x-ratelimit-limit-(req|requests|tokens|inputs|texts)-(?:([0-9]{1,4})-)?(second|minute|hour|day|month)"
)
"""Mistral's names: `-req-minute`, `-req-10-second`, `-tokens-month`."""


class _Window(msgspec.Struct, frozen=True, gc=False):
    """One of the limits that a reply names: of the organization, of the project, or of so many seconds."""

    limit: int | None
    remaining: int | None
    reset: float | None
    seconds: float = MINUTE

    @property
    def rate(self) -> float:
        return _or_inf(self.limit) / self.seconds


_NOTHING = _Window(None, None, None)
_SILENT = Hints()
_SHOULD_RETRY = {"true": True, "false": False}
# Together's window is 2 s, Mistral's was 10 s, OpenAI's is a minute; the others are chosen. A reset is what is left of
# a window, so the next larger of these is taken for the window itself.
_USUAL_WINDOWS = (1.0, 2.0, 5.0, 10.0, MINUTE)


def parse_hints(headers: Mapping[str, str], body: str = "", delay: float | None = None) -> Hints:
    """The hints of one reply. The names of the headers are in lower case.

    Where they name no time, `body` is read for "try again in 510ms", the message of an error; `delay` is what another
    field of its body says, in seconds.
    """
    retry_after = read_retry_after(headers, body, delay)
    should_retry = _SHOULD_RETRY.get(headers.get("x-should-retry", "").strip().lower())
    limits = [name for name in headers if "limit" in name]
    if limits and not all(name.startswith("x-ratelimit-") for name in limits):
        headers = usual_names(headers)
        limits = [name for name in headers if name.startswith("x-ratelimit-")]
    if not limits:
        return Hints(retry_after, should_retry) if retry_after is not None or should_retry is not None else _SILENT
    requests, tokens = _window(headers, "requests"), _window(headers, "tokens")
    if requests.limit is None or tokens.limit is None:
        return _hints_by_name(headers, limits, requests, tokens, retry_after, should_retry)
    return Hints(
        retry_after,
        should_retry,
        requests.limit,
        requests.remaining,
        requests.reset,
        tokens.limit,
        tokens.remaining,
        tokens.reset,
    )


def _hints_by_name(
    headers: Mapping[str, str],
    names: Sequence[str],
    requests: _Window,
    tokens: _Window,
    retry_after: float | None,
    should_retry: bool | None,
) -> Hints:
    """The hints where not both limits have the usual names: a window may be in a name, or in the one reset of all."""
    windows = _windows_by_name(headers, names)
    spent = find_spent_window(headers)
    requests, tokens = windows.get("requests", requests), windows.get("tokens", tokens)
    texts = windows.get("texts", _NOTHING)
    if "x-ratelimit-reset" in headers:
        requests, tokens = _with_one_reset(headers, requests, tokens)
    return Hints(
        retry_after=retry_after,
        should_retry=should_retry,
        limit_requests=requests.limit,
        remaining_requests=requests.remaining,
        reset_requests=requests.reset,
        limit_tokens=tokens.limit,
        remaining_tokens=tokens.remaining,
        reset_tokens=tokens.reset,
        limit_texts=texts.limit,
        remaining_texts=texts.remaining,
        reset_texts=texts.reset,
        window_requests=requests.seconds,
        window_tokens=tokens.seconds,
        window_texts=texts.seconds,
        spent_window=spent.name if spent else "",
        reset_spent=spent.reset if spent else None,
    )


def never_clearing_limit(headers: Mapping[str, str], *, hinted: bool = True) -> str:
    """The header of a limit of 0, as it stands there, or "": the plan does not have this model (Mistral).

    No waiting clears such a limit. Azure names a limit of 0 where it keeps no count: only a window in its name tells
    that it is meant, or a refusal that speaks of no wait (which is not `hinted`).
    """
    zeros = [
        name
        for name, text in headers.items()
        if f"{name}-".startswith("x-ratelimit-limit-") and _count(text.strip()) == 0
    ]
    meant = [name for name in zeros if _WINDOWED.fullmatch(name)]
    if not meant and not hinted:
        meant = zeros
    return f"{meant[0]}: 0" if meant else ""


class SpentWindow(NamedTuple):
    """A window of a day or a month that has too little left, and the seconds until it is whole again."""

    name: str
    reset: float | None


def find_spent_window(headers: Mapping[str, str], *, tokens: float = 1.0, texts: int = 1) -> SpentWindow | None:
    """The longest window that a request of that size does not fit in any more."""
    needed = {"requests": 1.0, "tokens": tokens, "texts": texts}
    found: dict[float, SpentWindow] = {}
    for name in headers:
        match = _WINDOWED.fullmatch(name)
        if match is None or _SECONDS[match[3]] <= _LONG:
            continue
        window = _window_by_name(headers, name.removeprefix("x-ratelimit-limit-"))
        if window.limit and window.remaining is not None and window.remaining < needed[_UNIT_NAMES[match[1]]]:
            found[_SECONDS[match[3]]] = SpentWindow(match[3], window.reset)
    return found[max(found)] if found else None


def _windows_by_name(headers: Mapping[str, str], names: Sequence[str]) -> dict[str, _Window]:
    """The slowest limit of each unit whose window is in its name; `find_spent_window` tells of a day or a month."""
    found: dict[str, _Window] = {}
    for name in names:
        if not (match := _WINDOWED.fullmatch(name)):
            continue
        seconds = _SECONDS[match[3]] * max(int(match[2] or 1), 1)
        window = _window_by_name(headers, name.removeprefix("x-ratelimit-limit-"), seconds)
        unit = _UNIT_NAMES[match[1]]
        if seconds <= _LONG and window.rate < found.get(unit, _NOTHING).rate:
            found[unit] = window
    return found


def _with_one_reset(headers: Mapping[str, str], requests: _Window, tokens: _Window) -> tuple[_Window, _Window]:
    """A reset that names no unit is the end of the window (Together: 2 seconds), which is then no minute."""
    reset = seconds_of_reset(headers["x-ratelimit-reset"], headers.get("date", ""))
    if reset is None or reset > _LONG:
        return requests, tokens
    if requests.limit is None and tokens.limit is None:
        limit = _count(headers.get("x-ratelimit-limit", "")) or None
        requests = _Window(limit, _count(headers.get("x-ratelimit-remaining", "")), None)
    seconds = next((window for window in _USUAL_WINDOWS if reset <= window), _LONG)
    if requests.limit is not None and requests.reset is None:
        requests = replace(requests, reset=reset, seconds=seconds)
    if tokens.limit is not None and tokens.reset is None:
        tokens = replace(tokens, reset=reset, seconds=seconds)
    return requests, tokens


def _window(headers: Mapping[str, str], unit: str) -> _Window:
    """The tighter one of the organization's and the project's limit (OpenAI sends both)."""
    if f"x-ratelimit-limit-project-{unit}" not in headers and f"x-ratelimit-remaining-project-{unit}" not in headers:
        return _window_by_name(headers, unit)
    return min(
        (_window_by_name(headers, unit), _window_by_name(headers, f"project-{unit}")),
        key=lambda window: (_or_inf(window.remaining), _or_inf(window.limit)),
    )


def _window_by_name(headers: Mapping[str, str], unit: str, seconds: float = MINUTE) -> _Window:
    limit = _count(headers.get(f"x-ratelimit-limit-{unit}", "")) or None
    remaining = _count(headers.get(f"x-ratelimit-remaining-{unit}", ""))
    reset = parse_duration(headers.get(f"x-ratelimit-reset-{unit}", ""))
    window = _Window(limit, remaining, reset, seconds)
    # Azure sends limit 0 and remaining 0 where it keeps no count.
    return replace(window, remaining=None) if limit is None and not remaining else window


def _or_inf(value: int | None) -> float:
    return inf if value is None else value


def _count(text: str) -> int | None:
    # Without what `strip` takes for white space and float() does not (`0\x1f`).
    if not _INTEGER.fullmatch(text := text.strip()):
        return None
    count = int(float(text))
    return count if count <= _MOST_COUNT else None
