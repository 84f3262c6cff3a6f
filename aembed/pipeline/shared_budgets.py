"""This module keeps budgets in a coordinator: a worker draws tokens of them, and spends no more than it has drawn.

So a request costs no statement, and a budget is never passed, whatever becomes of the workers or the database: what was
drawn counts as spent until it is given back.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

import anyio

from aembed.core.shares import BudgetState, draw, give_back, read_state, write_state
from aembed.dispatch import Coordination
from aembed.errors import AembedError
from aembed.protocols import Provider

logger = logging.getLogger("aembed")

# Chosen: how much a minute takes is not known at the first request; eight of them are what is in flight by default.
FIRST_REQUESTS = 8
"""The first draw is for so many requests."""


@dataclass(slots=True)
class DrawnTokens:
    """What this worker has drawn of one budget, in tokens, and how fast it spends. Less than 0: owed."""

    held: int = 0
    taken: int = 0
    """All that workers have drawn, as far as the last draw told."""
    spent: int = 0
    drawn_at: float | None = None

    def minute(self, need: int, now: float) -> float:
        """What is spent in a minute, as far as it is known."""
        if self.drawn_at is None or now <= self.drawn_at:
            return float(FIRST_REQUESTS * max(1, need))
        return max(float(need), self.spent * 60.0 / (now - self.drawn_at))


@dataclass(eq=False, repr=False)
class SharedBudgets:
    """The budgets of one Embedder that a coordinator keeps."""

    _coordination: Coordination
    _provider: Provider
    spent: dict[str, int] = field(default_factory=dict)
    """What is spent of each budget, or held by others, as far as is known here."""
    unspent: Counter[str] = field(default_factory=Counter[str])
    """What requests have noted and not spent."""
    _held: dict[str, DrawnTokens] = field(default_factory=dict)
    _account: str = ""
    _process: int = field(default_factory=os.getpid)
    _turn: anyio.Lock = field(default_factory=lambda: anyio.Lock(fast_acquire=True))

    def __post_init__(self) -> None:
        self._coordination.give_back = self.give_back

    def account_of(self, most: float) -> SharedAccount:
        """The account of a budget of so many tokens."""
        return SharedAccount(self, most)

    async def spend(self, job: str, tokens: int, most: float) -> int:
        """Spends of what was drawn, and draws more where that is too little.

        Returns what is spent of the budget or held by others; it is above `most` where so many tokens are not left.
        """
        async with self._turn:
            drawn = self._drawn_of(job)
            owed = max(0, -drawn.held)
            drawn.held -= tokens
            if drawn.held < 0 < tokens:
                try:
                    await self._draw(job, drawn, owed, most, need=-drawn.held - owed)
                except BaseException:
                    drawn.held += tokens
                    raise
            drawn.spent += tokens
            return drawn.taken - drawn.held

    async def regain(self, job: str, most: float) -> int:
        """Draws what others have given back; returns what `spend` does."""
        async with self._turn:
            drawn = self._drawn_of(job)
            await self._draw(job, drawn, max(0, -drawn.held), most, need=0)
            return drawn.taken - drawn.held

    async def give_back(self) -> None:
        """What was drawn and not spent is there for the others; what cannot be given back counts as spent."""
        try:
            async with self._turn:
                for job, drawn in self._held.items():
                    if held := drawn.held + self.unspent.pop(job, 0):
                        drawn.held = 0
                        change = partial(_give_back, held)
                        drawn.taken = await self._coordination.ask(await self._name_of(job), change, durable=True)
                self._held.clear()
                self.spent.clear()
                self._account = ""
        except AembedError as error:
            logger.warning("what was drawn of a budget and not spent was not given back: %s", error)

    async def _draw(self, job: str, drawn: DrawnTokens, owed: int, most: float, need: int) -> None:
        now = asyncio.get_running_loop().time()
        change = partial(_draw, owed, need, drawn.minute(need, now), self._coordination.workers, most)
        granted, drawn.taken = await self._coordination.ask_until_there(await self._name_of(job), change)
        drawn.held += granted + owed
        drawn.spent, drawn.drawn_at = 0, now

    def _drawn_of(self, job: str) -> DrawnTokens:
        if self._process != os.getpid():
            # After a fork the parent holds what was drawn.
            self._process, self._held = os.getpid(), {}
            self.unspent.clear()
        return self._held.setdefault(job, DrawnTokens())

    async def _name_of(self, job: str) -> str:
        self._account = self._account or await self._coordination.name_account(self._provider)
        return f"{self._account} {job}"


class SharedAccount:
    """An account (aembed.Accounts) of one budget, for all workers that name the coordinator."""

    def __init__(self, shared_budgets: SharedBudgets, most: float) -> None:
        self._shared_budgets, self._most = shared_budgets, most
        self.spent, self.unspent = shared_budgets.spent, shared_budgets.unspent

    async def spend(self, job: str, tokens: int) -> int:
        return await self._shared_budgets.spend(job, tokens, self._most)

    async def regain(self, job: str) -> int:
        return await self._shared_budgets.regain(job, self._most)

    async def close_account(self, job: str) -> None:
        """A budget of a day or a month ends with it."""


def _draw(
    owed: int, need: int, minute: float, workers: int, most: float, written: bytes | None, now: float
) -> tuple[bytes, tuple[int, int]]:
    budget, granted = draw(read_state(BudgetState, written), owed, need, minute, workers, most)
    return write_state(budget), (granted, budget.taken)


def _give_back(tokens: int, written: bytes | None, now: float) -> tuple[bytes, int]:
    budget = give_back(read_state(BudgetState, written), tokens)
    return write_state(budget), budget.taken
