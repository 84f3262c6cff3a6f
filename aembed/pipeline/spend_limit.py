"""This module says what may be spent, and notes what was, where the rows are, so that a restart finds it.

Law 6: what can be refused is refused before money is spent. So the most that a request may cost is noted in each budget
before it goes out, and what it costs in the end is settled when it is answered:

    reserve(tokens) -+- noted in every budget -> the request goes -+- settle(billed): what was noted too much is free
                     |                                             +- release(): it cost nothing
                     |                                             +- neither: it may be on the bill, and stays noted
                     +- some budget has too little left: nothing stays noted, BudgetExceededError
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import ceil, floor, inf
from typing import Protocol, runtime_checkable

import anyio

from aembed.dispatch import Notice
from aembed.errors import AembedError, BudgetExceededError
from aembed.pipeline.store_calls import await_store
from aembed.protocols import Accounts

logger = logging.getLogger("aembed")

# Chosen: one write to a store takes milliseconds; what a cancelled job cannot note in this time stays noted as spent.
LEAVE_SECONDS = 5.0
"""A job that was stopped has so many seconds to give back what it noted and did not spend."""
# Chosen: 1e-6 of a token is more than the rounding of a float in sums of 10^9, and no money: without it 3.0000000001
# tokens would be rounded up to 4.
ROUNDING = 1e-6
"""This is taken off before a number of tokens is rounded up."""


@dataclass(eq=False, repr=False)
class RunAccount:
    """An account in the memory of this process: after a restart nothing is spent."""

    _spent: Counter[str] = field(default_factory=Counter[str])

    async def spend(self, job: str, tokens: int) -> int:
        self._spent[job] += tokens
        return self._spent[job]

    async def close_account(self, job: str) -> None:
        self._spent.pop(job, None)


@runtime_checkable
class RemembersSpending(Protocol):
    """An account that keeps, for all calls of an Embedder, what is known of what was spent."""

    spent: dict[str, int]
    unspent: Counter[str]

    async def regain(self, job: str) -> int:
        """What is spent, as `spend` tells it, once more is there because others have given it back."""
        ...


@dataclass(eq=False, repr=False)
class BudgetAccount:
    """One budget of `most` tokens. `name` is that of its account: a day's budget has another one after midnight.

    What was noted and not billed is given back together with the next note: one write a request.
    """

    most: float
    _account: Accounts
    _name: Callable[[], str]
    of: str
    advice: str
    _spent: dict[str, int] = field(default_factory=dict)
    _unspent: Counter[str] = field(default_factory=Counter[str])

    def __post_init__(self) -> None:
        # Calls have a budget each, and what one has left over is the next one's.
        if isinstance(self._account, RemembersSpending):
            self._spent, self._unspent = self._account.spent, self._account.unspent

    @property
    def is_kept(self) -> bool:
        """Whether it is kept from run to run."""
        return not isinstance(self._account, RunAccount)

    @property
    def tokens_left(self) -> float:
        """What is left, as far as it is known here: others may spend of it, too."""
        name = self._name()
        return self.most - self._spent.get(name, 0) + self._unspent[name]

    async def reserve(self, tokens: int) -> str | None:
        """Notes the tokens durably; returns the account, or None where so many are not left. Raises StoreError."""
        name = self._name()
        if await self._spend(name, tokens - self._unspent.pop(name, 0)) <= self.most:
            return name
        self.release(name, tokens)
        await self.give_back(name)
        return None

    def release(self, name: str, tokens: int) -> None:
        self._unspent[name] += tokens

    async def settle(self, name: str, reserved: int, billed: int) -> None:
        """Settles a bill: what it is larger by than was noted is noted at once, and what it is smaller by, later."""
        if billed <= reserved:
            self._unspent[name] += reserved - billed
            return
        try:
            await self._spend(name, billed - reserved)
        except AembedError as error:
            # The reply was paid for and is good.
            self._unspent[name] -= billed - reserved
            logger.warning("what a request cost beyond its estimate is not noted yet: %s", error)

    async def give_back(self, name: str | None = None) -> None:
        """Gives back what was noted and not spent, of one account or of all."""
        for each in [*self._unspent] if name is None else [name]:
            if unspent := self._unspent.pop(each, 0):
                await self._spend(each, -unspent)

    async def regain(self) -> None:
        """Asks whether other workers have given something back."""
        if isinstance(self._account, RemembersSpending):
            name = self._name()
            self._spent[name] = await await_store(self._account.regain(name))

    def exceeded_error(self, tokens: int) -> AembedError:
        """The error for a request of so many tokens that are not left."""
        return BudgetExceededError(
            f"the next request needs about {tokens:,} tokens, and of the {self.most:,.0f} for {self.of} "
            f"{max(0, self.tokens_left):,.0f} are left; {self.advice}"
        )

    async def close(self) -> None:
        await await_store(self._account.close_account(self._name()))

    async def _spend(self, name: str, tokens: int) -> int:
        self._spent[name] = await await_store(self._account.spend(name, tokens))
        return self._spent[name]


@dataclass(slots=True)
class BudgetHolds:
    """What was noted for one request, in each budget that it falls under."""

    spend_limit: SpendLimit
    accounts: Sequence[tuple[BudgetAccount, str]]
    tokens: int

    def release(self) -> None:
        for budget, name in self.accounts:
            budget.release(name, self.tokens)

    async def settle(self, billed: int | None, cost_usd: float | None) -> None:
        """A cost in dollars that the provider names counts as the tokens that it would buy, if those are more."""
        if cost_usd is not None and self.spend_limit.price_usd:
            billed = max(billed or 0, ceil(cost_usd / self.spend_limit.price_usd * 1_000_000 - ROUNDING))
        if billed is None:
            return
        self.spend_limit.learn(billed / self.tokens)
        for budget, name in self.accounts:
            await budget.settle(name, self.tokens, billed)


class SpendLimit:
    """The budgets of one job: a request is noted in all of them, or in none. `own` ends with the job."""

    def __init__(
        self, budgets: Sequence[BudgetAccount], own: BudgetAccount | None = None, *, price_usd: float | None = None
    ) -> None:
        self.budgets = budgets
        self.is_limited = bool(budgets)
        self.price_usd = price_usd
        """The price of a million tokens, where a budget is in dollars."""
        self.asked = 0
        """How many requests were noted, or refused."""
        self.changed = Notice()
        """A request was noted, refused or has landed."""
        self.goes_on = False
        """Whether the job is not at its end: texts of it are out in batches."""
        self._own = own
        self._factor = 1.0

    @property
    def tokens_left(self) -> float:
        """The most tokens that a next request may be noted with."""
        left = min([budget.tokens_left for budget in self.budgets], default=inf)
        return left if left == inf else floor(floor(left) / self._factor)

    async def reserve(self, tokens: int) -> BudgetHolds:
        """Notes what a request may cost. Raises StoreError; or BudgetExceededError, or for a limit of the provider
        QuotaExceededError, and then nothing stays noted."""
        most, accounts = self._most_to_hold(tokens), list[tuple[BudgetAccount, str]]()
        try:
            for budget in self.budgets:
                name = await budget.reserve(most)
                if name is None:
                    for noted, account in accounts:
                        noted.release(account, most)
                        await noted.give_back(account)
                    raise self.exceeded_error(tokens)
                accounts.append((budget, name))
        finally:
            self.asked += 1
            self.changed.tell()
        return BudgetHolds(self, accounts, most)

    async def regain(self) -> float:
        """`tokens_left`, once the budgets that workers share were asked again."""
        for budget in self.budgets:
            await budget.regain()
        return self.tokens_left

    async def reserve_for_days(self, tokens: int) -> Mapping[str, str]:
        """Notes what a batch may cost, which is settled in another run. Returns, by what each budget is of, the name
        of its account; not those that live in this process alone, where it stays noted. Raises as `reserve`."""
        held = await self.reserve(tokens)
        return {budget.of: name for budget, name in held.accounts if budget.is_kept}

    async def settle_after_days(self, accounts: Mapping[str, str], reserved: int, billed: int) -> None:
        """Settles the bill of a batch for which so many tokens were noted in these accounts."""
        for budget in self.budgets:
            if (name := accounts.get(budget.of)) is not None:
                await budget.settle(name, reserved, billed)

    def renew(self) -> None:
        """The spend limit is used in another event loop from here on."""
        self.changed = Notice()

    def learn(self, share: float) -> None:
        """Learns from a bill above the most that its texts should cost that later ones may be so, too."""
        self._factor = max(self._factor, share)

    def exceeded_error(self, tokens: int) -> AembedError:
        """The error for a request of so many tokens; it names the budget of which the least is left."""
        budget = min(self.budgets, key=lambda budget: budget.tokens_left)
        return budget.exceeded_error(self._most_to_hold(tokens))

    async def close(self, *, goes_on: bool) -> None:
        """The job has come to its end, and the next one begins with nothing spent; or it `goes_on` another time, with
        what is left. Budgets that last longer go on. A store that cannot keep that is told of in the log."""
        ended = None if goes_on else self._own
        try:
            if ended:
                await ended.close()
            for budget in self.budgets:
                if budget is not ended:
                    await budget.give_back()
        except AembedError as error:
            logger.warning("the store did not keep what the job has spent: %s", error)

    def _most_to_hold(self, tokens: int) -> int:
        return ceil(tokens * self._factor - ROUNDING)


@asynccontextmanager
async def close_when_done(spend_limit: SpendLimit) -> AsyncIterator[SpendLimit]:
    try:
        yield spend_limit
    except BaseException:
        with anyio.CancelScope(shield=True), anyio.move_on_after(LEAVE_SECONDS):
            await spend_limit.close(goes_on=True)
        raise
    await spend_limit.close(goes_on=spend_limit.goes_on)
