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
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil, floor, inf
from typing import Any

import anyio

from aembed.errors import AembedError, BudgetExceededError
from aembed.pipeline.store_sinks import guarded
from aembed.protocols import Accounts

logger = logging.getLogger("aembed")

# Chosen: one write to a store takes milliseconds; what a cancelled job cannot note in this time stays noted as spent.
LEAVE_SECONDS = 5.0
"""A job that was stopped has so many seconds to give back what it noted and did not spend."""
# Chosen: 1e-6 of a token is more than the rounding of a float in sums of 10^9, and no money: without it 3.0000000001
# tokens would be rounded up to 4.
ROUNDING = 1e-6
"""This is taken off before a number of tokens is rounded up."""


class RunAccount:
    """An account in the memory of this process: after a restart nothing is spent."""

    def __init__(self) -> None:
        self._spent = Counter[str]()

    async def spend(self, job: str, tokens: int) -> int:
        self._spent[job] += tokens
        return self._spent[job]

    async def close_account(self, job: str) -> None:
        self._spent.pop(job, None)


class Pot:
    """One budget of `most` tokens. `name` is that of its account: a day's budget has another one after midnight.

    What was noted and not billed is given back together with the next note: one write a request.
    """

    def __init__(self, most: float, account: Accounts, name: Callable[[], str], of: str, advice: str) -> None:
        self.most = most
        self.of = of
        self.advice = advice
        self._account = account
        self._name = name
        self._spent: dict[str, int] = {}
        self._unspent = Counter[str]()

    @property
    def left(self) -> float:
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

    async def close(self) -> None:
        await guarded(self._account.close_account(self._name()))

    async def _spend(self, name: str, tokens: int) -> int:
        self._spent[name] = await guarded(self._account.spend(name, tokens))
        return self._spent[name]


@dataclass(slots=True)
class Noted:
    """What was noted for one request, in each budget that it falls under."""

    purse: Purse
    accounts: Sequence[tuple[Pot, str]]
    tokens: int

    def release(self) -> None:
        for pot, name in self.accounts:
            pot.release(name, self.tokens)

    async def settle(self, billed: int | None, cost_usd: float | None) -> None:
        """A cost in dollars that the provider names counts as the tokens that it would buy, if those are more."""
        if cost_usd is not None and self.purse.price_usd:
            billed = max(billed or 0, ceil(cost_usd / self.purse.price_usd * 1_000_000 - ROUNDING))
        if billed is None:
            return
        self.purse.learn(billed / self.tokens)
        for pot, name in self.accounts:
            await pot.settle(name, self.tokens, billed)


class Purse:
    """The budgets of one job: a request is noted in all of them, or in none. `own` ends with the job."""

    def __init__(self, pots: Sequence[Pot], own: Pot | None = None, *, price_usd: float | None = None) -> None:
        self.pots = pots
        self.price_usd = price_usd
        """The price of a million tokens, where a budget is in dollars."""
        self.asked = 0
        """How many requests were noted, or refused."""
        self.changed = anyio.Event()
        """Set, and another one made, when a request was noted, refused or has landed."""
        self._own = own
        self._factor = 1.0

    @property
    def limited(self) -> bool:
        return bool(self.pots)

    @property
    def left(self) -> float:
        """The most tokens that a next request may be noted with."""
        return floor(floor(min([pot.left for pot in self.pots])) / self._factor) if self.pots else inf

    async def reserve(self, tokens: int) -> Noted:
        """Notes what a request may cost. Raises BudgetExceededError, and then nothing stays noted, or StoreError."""
        most, accounts = self._most(tokens), list[tuple[Pot, str]]()
        try:
            for pot in self.pots:
                name = await pot.reserve(most)
                if name is None:
                    await self._give_back(accounts, most)
                    raise self.exceeded(tokens)
                accounts.append((pot, name))
        finally:
            self.asked += 1
            self.notify()
        return Noted(self, accounts, most)

    def renew(self) -> None:
        """The purse is used in another event loop from here on."""
        self.changed = anyio.Event()

    def notify(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    def learn(self, share: float) -> None:
        """Learns from a bill above the most that its texts should cost that later ones may be so, too."""
        self._factor = max(self._factor, share)

    def exceeded(self, tokens: int) -> BudgetExceededError:
        """The error for a request of so many tokens; it names the budget of which the least is left."""
        pot = min(self.pots, key=lambda pot: pot.left)
        return BudgetExceededError(
            f"the next request needs about {self._most(tokens):,} tokens, and of the {pot.most:,.0f} for {pot.of} "
            f"{max(0, pot.left):,.0f} are left; {pot.advice}"
        )

    async def close(self) -> None:
        """The job has come to its end: the next one begins with nothing spent. Budgets that last longer go on."""
        if self._own:
            await self._own.close()
        for pot in self.pots:
            if pot is not self._own:
                await pot.give_back()

    async def leave(self) -> None:
        """The job goes on another time, with what is left."""
        for pot in self.pots:
            await pot.give_back()

    def _most(self, tokens: int) -> int:
        return ceil(tokens * self._factor - ROUNDING)

    async def _give_back(self, accounts: Sequence[tuple[Pot, str]], tokens: int) -> None:
        for pot, name in accounts:
            pot.release(name, tokens)
            await pot.give_back(name)


@asynccontextmanager
async def spending(purse: Purse) -> AsyncIterator[Purse]:
    try:
        yield purse
    except BaseException:
        with anyio.CancelScope(shield=True), anyio.move_on_after(LEAVE_SECONDS):
            await _noted(purse.leave())
        raise
    await _noted(purse.close())


async def _noted(step: Coroutine[Any, Any, None]) -> None:
    try:
        await step
    except AembedError as error:
        logger.warning("the store did not keep what the job has spent: %s", error)
