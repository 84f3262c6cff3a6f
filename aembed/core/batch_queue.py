"""What is believed of a provider's queue of tokens for batches, as refusals and batches that ran have told."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from aembed.batch_protocols import BatchState

LEAST_QUEUE_TOKENS = 10_000
"""The queue of a provider is not believed to be smaller than this."""
# Chosen: limits grow with what an account has spent, by the day. Larger, what was refused long ago would hold for ever;
# smaller, a batch would be refused, and its texts come a run later, every few days.
BELIEVED_SECONDS = 7 * 86_400.0
"""No more than what was refused is tried again for so long."""
# Chosen: a queue that was taken for half as large as it is is used up again after four rounds.
GROWTH = 1.25
"""So many times of what has fitted is tried next."""
_LIMIT = re.compile(r"\blimit: ([\d,]{1,20}) enqueued tokens", re.IGNORECASE)


class Queue(msgspec.Struct, frozen=True):
    """`tokens` may be out at once. `refused_tokens` were too many, at `refused_at` (seconds since 1970)."""

    tokens: float
    refused_tokens: float | None = None
    refused_at: float = 0.0

    def after_fit(self, tokens: float, now: float) -> Queue:
        """So many were out, and none of them was refused."""
        tried = GROWTH * tokens
        if self.refused_tokens is not None and now < self.refused_at + BELIEVED_SECONDS:
            tried = min(tried, (tokens + self.refused_tokens) / 2)
        return self if tried <= self.tokens else msgspec.structs.replace(self, tokens=tried)


def after_refusal(tokens: float, now: float, limit: int | None = None) -> Queue:
    """So many would have been out. Half of them are believed, or the limit that the service has told, where that
    explains it."""
    if limit is not None and limit < tokens:
        return Queue(max(LEAST_QUEUE_TOKENS, limit), limit, now)
    return Queue(max(LEAST_QUEUE_TOKENS, round(tokens / 2)), tokens, now)


def is_queue_full(state: BatchState) -> bool:
    """Whether the batch failed because too many tokens were out."""
    return any("token_limit" in fault.code for fault in state.faults)


def limit_in(told: Iterable[str]) -> int | None:
    """The limit of its queue in tokens, where the service tells it."""
    found = next(filter(None, map(_LIMIT.search, told)), None)
    return int(found[1].replace(",", "")) if found and found[1].strip(",") else None
