"""This module handles the end of a budget: batches are cut to what is left of it, so that all of it is used."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence, Sized

from aembed.core.changes import Item
from aembed.core.packing import Cap
from aembed.counters import Measure
from aembed.pipeline.batches import Batches
from aembed.pipeline.spend_limit import SpendLimit

# Chosen: a request of 10,000 tokens takes 0.3 s (78 ms + 22 us a token at OpenAI), most of it for its tokens. Smaller,
# a budget would end in many requests of a few texts.
LEAST_TOKENS = 10_000
"""A batch that is one of several has at least so many tokens, by the provider's estimate, also at a budget's end."""
# Chosen: that many times others were faster; a job that goes on would only fight for the last tokens.
MOST_REFUSED = 20
"""After so many batches in a row that were cut to what is left, and were not noted, the job stops."""


class BudgetShares:
    """What is left of a budget, shared by all batches that may go now.

    It grows as they land, because each is noted with the most that it can cost.
    """

    def __init__(self, spend_limit: SpendLimit, measure: Measure, concurrency: int) -> None:
        self.limited = spend_limit.is_limited
        self._spend_limit = spend_limit
        self._measure = measure
        self._concurrency = concurrency
        self.refused = 0
        """Batches in a row that were not noted because less was left than was known here."""

    def narrow_cap(self, under_way: Sized, cap: Cap) -> Cap:
        """The cap, or what the next batch may cost where that is less."""
        share = self._share_of_budget(len(under_way)) / self._measure.most_billed_for_a_token
        return cap if share >= cap.tokens else Cap(cap.inputs, max(1.0, share), cap.paced)

    async def next_batch(self, batches: Batches, tasks: Collection[asyncio.Task[None]]) -> list[Item]:
        """The next batch; it is empty once all was taken. Raises BudgetExceededError if no more can be afforded."""
        while True:
            batch = await batches.next_batch()
            if batch and self._cost_of_batch(batch) <= self._spend_limit.tokens_left:
                return batch
            if batch:
                batches.put_back(batch)
                share, left = self._share_of_budget(len(tasks)), self._spend_limit.tokens_left
                if batch := batches.cheapest_batch(share, left, lambda item: self._cost_of_batch([item])):
                    return batch
            if not tasks:
                least = batches.least_cost(lambda item: self._cost_of_batch([item]))
                if least is None:
                    return []
                if await self._spend_limit.regain() < least:
                    raise self._spend_limit.exceeded_error(least)
                continue
            await self._spend_limit.changed.wait()

    def may_go_on(self) -> bool:
        """Whether to cut another batch, after one was not noted because less is left than was known here."""
        self.refused += 1
        return self.refused <= MOST_REFUSED

    def _share_of_budget(self, under_way: int) -> float:
        left, least = self._spend_limit.tokens_left, LEAST_TOKENS * self._measure.most_billed_for_a_token
        return max(left / max(1, self._concurrency - under_way), min(left, least))

    def _cost_of_batch(self, batch: Sequence[Item]) -> float:
        return sum([self._measure.most_cost(item) for item in batch])
