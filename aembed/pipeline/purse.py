"""What a job may spend: law 6 for each request, kept where the rows are so that a restart finds it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio

from aembed.errors import AembedError, BudgetExceededError
from aembed.pipeline.store_sinks import guarded
from aembed.protocols import Accounts
from aembed.types import Space

logger = logging.getLogger("aembed")

LEAVE_SECONDS = 5.0
LEAST_SHARE = 8
"""A reply that says it cost less than this part of what its texts may cost is not believed."""


class JobPurse:
    """`most` are the tokens that the job may cost, over all of its runs; None: no limit, and nothing is kept.

    What was reserved and not billed is given back together with the next reservation: one write a request.
    """

    def __init__(self, most: float | None, account: Accounts, job: str) -> None:
        self._most = most
        self._account = account
        self._job = job
        self._unspent = 0

    async def reserve(self, tokens: int) -> None:
        """Notes them, durably, before they are sent. Raises BudgetExceededError, or StoreError."""
        if self._most is None:
            return
        unspent, self._unspent = self._unspent, 0
        spent = await self._spend(tokens - unspent)
        if spent > self._most:
            self.release(tokens)
            raise BudgetExceededError(
                f"the next request needs about {tokens:,} tokens, and of the {self._most:,.0f} that this job may cost, "
                f"with its earlier runs, {max(0, self._most - spent + tokens):,.0f} are left; "
                "raise the budget and run the same again"
            )

    def release(self, reserved: int) -> None:
        self._unspent += reserved

    async def settle(self, reserved: int, billed: int | None) -> None:
        """A bill that is larger than the reservation is noted at once; what it is smaller by, later."""
        if self._most is None or billed is None or billed * LEAST_SHARE < reserved:
            return
        self._unspent += max(0, reserved - billed)
        if billed > reserved:
            try:
                await self._spend(billed - reserved)
            except AembedError as error:
                # The reply was paid for and is good.
                self._unspent -= billed - reserved
                logger.warning("what a request cost beyond its estimate is not noted yet: %s", error)

    async def close(self) -> None:
        """The job has come to its end: the next one begins with nothing spent."""
        await guarded(self._account.close_account(self._job))

    async def leave(self) -> None:
        """The job goes on another time, with what is left."""
        unspent, self._unspent = self._unspent, 0
        if self._most is not None and unspent:
            await self._spend(-unspent)

    async def _spend(self, tokens: int) -> int:
        spent: int = await guarded(self._account.spend(self._job, tokens))
        return spent


class RunAccount:
    """For a job without a store, or with one that keeps no accounts: a restart begins with nothing spent."""

    def __init__(self) -> None:
        self._spent = Counter[str]()

    async def spend(self, job: str, tokens: int) -> int:
        self._spent[job] += tokens
        return self._spent[job]

    async def close_account(self, job: str) -> None:
        self._spent.pop(job, None)


def purse_of(most: float | None, place: object, space: Space) -> JobPurse:
    """A job is all that is done for one store in one space until a run ends by itself."""
    account = place if isinstance(place, Accounts) else RunAccount()
    return JobPurse(most, account, str(replace(space, dimensions=None)))


@asynccontextmanager
async def spending(most: float | None, place: object, space: Space) -> AsyncIterator[JobPurse]:
    purse = purse_of(most, place, space)
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
