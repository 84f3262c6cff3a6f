"""The rate limits of one account, requests and tokens together: what a refusal says, and the headers about them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tests.service.windows import WINDOWS, Window, WindowKind

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Excess:
    """Why a request came too early. `wait` is infinity where it can never pass."""

    unit: Literal["requests", "tokens"]
    limit: float
    used: float
    requested: float
    wait: float


@dataclass(slots=True)
class RateLimits:
    """Both limits of one account; None is no limit. A refused request spends nothing, unless `charge_refused`."""

    requests: Window | None = None
    tokens: Window | None = None
    charge_refused: bool = False

    @classmethod
    def of(
        cls, kind: WindowKind, requests_per_minute: float | None = None, tokens_per_minute: float | None = None
    ) -> RateLimits:
        """The same kind of window for both."""
        make = WINDOWS[kind]
        return cls(
            make(requests_per_minute) if requests_per_minute else None,
            make(tokens_per_minute) if tokens_per_minute else None,
        )

    def admit(self, tokens: int, now: float) -> Excess | None:
        """Spends one request and its tokens, or says what stands in the way."""
        excess = self._excess("requests", self.requests, 1, now) or self._excess("tokens", self.tokens, tokens, now)
        if self.requests and (excess is None or self.charge_refused):
            self.requests.spend(1, now)
        if self.tokens and excess is None:
            self.tokens.spend(tokens, now)
        return excess

    def _excess(
        self, unit: Literal["requests", "tokens"], window: Window | None, cost: int, now: float
    ) -> Excess | None:
        wait = window.wait(cost, now) if window else 0.0
        if window is None or not wait:
            return None
        return Excess(unit, window.limit, window.limit - window.remaining(now), cost, wait)

    def headers(self, now: float) -> dict[str, str]:
        """The `x-ratelimit-*` headers of a reply."""
        headers = {}
        for unit, window in (("requests", self.requests), ("tokens", self.tokens)):
            if window:
                headers[f"x-ratelimit-limit-{unit}"] = str(int(window.limit))
                headers[f"x-ratelimit-remaining-{unit}"] = str(int(window.remaining(now) + _ROUNDING))
                headers[f"x-ratelimit-reset-{unit}"] = duration(window.reset(now))
        return headers


def duration(seconds: float) -> str:
    """As Go prints it, in whole milliseconds: `6ms`, `1.5s`, `1m30s`, `6m0s`, `1h2m3.5s`."""
    milliseconds = math.ceil(seconds * 1000 - _ROUNDING)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    shown = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{shown}"
    return f"{minutes}m{shown}" if minutes else shown
