"""This module counts what a provider's limit of a day has left, where the rows are, so that every run of a day counts.

It is a budget of a job like those of the user (spend_limit.py), but the provider's: where nothing is left the job stops
with QuotaExceededError before the next request, and says when the day ends. Limits that replies name need no count of
ours: their server counts itself, and its refusal stops the job (core/headers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time, timedelta, tzinfo
from math import inf
from typing import Literal

from aembed.errors import ConfigError, QuotaExceededError
from aembed.limits import Limits
from aembed.pipeline.spend_limit import BudgetAccount
from aembed.protocols import Accounts
from aembed.types import Hints

Clock = Callable[[], datetime]


class DayLimit(BudgetAccount):
    """The requests or tokens of a day. A request that is known not to count (it was refused) is given back."""

    def __init__(
        self,
        most: float,
        unit: Literal["requests", "tokens"],
        account: Accounts,
        space: str,
        zone: tzinfo,
        clock: Clock,
    ) -> None:
        self._unit, self._space, self._zone, self._clock = unit, space, zone, clock
        super().__init__(most, account, self._account_name, "a day", "run the same again then")

    def _account_name(self) -> str:
        return f"{self._unit} of {self._space} on {self._clock().astimezone(self._zone):%Y-%m-%d}"

    @property
    def tokens_left(self) -> float:
        left = super().tokens_left
        return left if self._unit == "tokens" else inf if left >= 1 else 0.0

    async def reserve(self, tokens: int) -> str | None:
        return await super().reserve(self._count(tokens))

    def release(self, name: str, tokens: int) -> None:
        super().release(name, self._count(tokens))

    async def settle(self, name: str, reserved: int, billed: int) -> None:
        if self._unit == "tokens":
            await super().settle(name, reserved, billed)

    def exceeded_error(self, tokens: int) -> QuotaExceededError:
        now = self._clock().astimezone(self._zone)
        midnight = datetime.combine(now.date() + timedelta(days=1), time(), now.tzinfo)
        # Of one zone a difference would leave out the hour by which its clocks change.
        seconds = (midnight.astimezone(UTC) - now.astimezone(UTC)).total_seconds()
        return QuotaExceededError(
            f"the provider's limit of {self.most:,.0f} {self._unit} a day has too little left for the next request, by "
            f"our own count; it resets at {midnight:%Y-%m-%d %H:%M} {midnight.tzname()}: {self.advice}",
            hints=Hints(spent_window="day", reset_spent=seconds),
        )

    def _count(self, tokens: int) -> int:
        return tokens if self._unit == "tokens" else 1


def day_limits(limits: Limits, account_of: Callable[[float], Accounts], space: str, clock: Clock) -> Iterator[DayLimit]:
    """Those that the provider has; `account_of` gives the account of so many. Raises ConfigError for a time zone that
    is not known here."""
    if (most := limits.requests_per_day) is not None:
        yield DayLimit(most, "requests", account_of(most), space, _zone_of(limits.day_zone), clock)
    if (most := limits.tokens_per_day) is not None:
        yield DayLimit(most, "tokens", account_of(most), space, _zone_of(limits.day_zone), clock)


def _zone_of(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # few need it, and it is slow to import

    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigError(f"Limits.day_zone: no time zone {name!r} is known here; pip install tzdata") from error
