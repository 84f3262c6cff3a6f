"""This module keeps the budgets of an Embedder, and says which of them a job falls under."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, date, datetime
from math import inf
from typing import get_args

from aembed.errors import ConfigError
from aembed.limits import Budget, Limits, Per
from aembed.pipeline.day_limits import day_limits
from aembed.pipeline.spend_limit import BudgetAccount, RunAccount, SpendLimit
from aembed.protocols import Accounts
from aembed.types import Space

AGAIN = "raise the budget and run the same again"
RAISE = "raise the budget"
FORMATS: dict[Per, str] = {"day": "%Y-%m-%d", "month": "%Y-%m"}
OF: dict[Per, str] = {
    "job": "this job, with its earlier runs,",
    "embedder": "this Embedder",
    "day": "this day (UTC) and store",
    "month": "this month (UTC) and store",
}


def clock() -> datetime:
    return datetime.now(UTC)


def today() -> date:
    return clock().date()


class Budgets:
    """The budgets by kind; of several budgets of one kind the smallest holds. A provider's limits of a day count, too.

    Those that last as long as the Embedder are kept here. Raises ConfigError where a price is needed and not known.
    """

    def __init__(
        self,
        budgets: Iterable[Budget],
        price_usd: float | None,
        limits: Limits | None = None,
        *,
        today: Callable[[], date] = today,
        shared: Callable[[float], Accounts] | None = None,
    ) -> None:
        self.today, self.clock, self._shared = today, clock, shared
        self._limits, self._run_account = limits, RunAccount()
        self._most: dict[Per, float] = {}
        self._price_usd: float | None = None
        for budget in budgets:
            tokens = budget.tokens(price_usd)
            if tokens is not None and tokens < inf:  # what costs nothing has no limit in dollars
                self._most[budget.per] = min(tokens, self._most.get(budget.per, inf))
            if budget.max_cost_usd is not None:
                self._price_usd = price_usd
        self._kinds = [per for per in get_args(Per) if per in self._most]
        """The kinds of budgets that there are; first those that cost no write to a store."""
        self.is_limited = bool(self._most)
        self._lasting: dict[Per, BudgetAccount] = {}

    def limit_of_queries(self) -> SpendLimit | None:
        """What queries may spend; None without a limit. Raises ConfigError for a budget that only a store can keep."""
        if not self._most:
            return None
        lasting = [per for per in self._most if per in FORMATS]
        if lasting and not self._shared:
            raise ConfigError(
                f'query_budget: per="{lasting[0]}" is kept by a store, which queries have none of, or by a '
                "coordinator; name one with coordinator="
            )
        budgets = [
            self._open_account(per, None, "", "queries ")
            if per in FORMATS
            else BudgetAccount(most, RunAccount(), str, "queries of this Embedder", RAISE)
            for per, most in self._most.items()
        ]
        return SpendLimit(budgets, price_usd=self._price_usd)

    def limit_of_calls(self) -> SpendLimit:
        """What verbs without a store may spend. Raises ConfigError for a budget that only a store can keep."""
        budgets = [self._open_account(per, None, "") for per in self._kinds]
        return SpendLimit([*budgets, *self._day_limits(self._run_account, "")], price_usd=self._price_usd)

    def limit_of_job(self, place: object, space: Space) -> SpendLimit:
        """What a job may spend; `place` is its store or table. Raises ConfigError for a budget that it cannot keep."""
        # Law 6: what can be refused is refused before money is spent; also a budget that nobody could keep.
        account, job = (
            place if isinstance(place, Accounts) else None,
            str(replace(space, dimensions=None, preparation="")),
        )
        # Without a limit now, what an earlier run was allowed ends all the same with this one.
        own = BudgetAccount(self._most.get("job", inf), account or RunAccount(), lambda: job, OF["job"], AGAIN)
        budgets = [own if per == "job" else self._open_account(per, account, job) for per in self._kinds]
        budgets += self._day_limits(account or self._run_account, job)
        return SpendLimit(budgets, own=own, price_usd=self._price_usd)

    def _day_limits(self, account: Accounts, job: str) -> Iterable[BudgetAccount]:
        if self._limits is None:
            return ()
        if self._shared:
            return day_limits(self._limits, self._shared, "all workers", self.clock)
        return day_limits(self._limits, lambda most: account, job, self.clock)

    def _open_account(self, per: Per, account: Accounts | None, job: str, whose: str = "") -> BudgetAccount:
        most = self._most[per]
        if per not in FORMATS:
            of = "calls of this Embedder that have no store" if per == "job" else OF[per]
            return self._lasting.setdefault(per, BudgetAccount(most, RunAccount(), str, of, RAISE))
        advice = f"run the same again in the next {per}, or raise the budget"
        if self._shared:
            of = f"this {per} (UTC) and all workers of the coordinator"
            return BudgetAccount(
                most, self._shared(most), lambda: f"{whose}{self.today().strftime(FORMATS[per])}", of, advice
            )
        if account is None:
            raise ConfigError(
                f'a budget per="{per}" is kept by a store (aembed.Accounts) or a coordinator, and there is none here '
                'that does; name one with coordinator=, or use per="embedder"'
            )
        return BudgetAccount(most, account, lambda: f"{job} {self.today().strftime(FORMATS[per])}", OF[per], advice)
