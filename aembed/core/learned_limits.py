"""Stage 7 learns from refusals how much this provider takes in one request: how many inputs, how many tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from aembed.core.billing import utf8_bytes
from aembed.core.changes import Item
from aembed.core.counting import ALIKE, MOST_SCALE, Counting
from aembed.core.packing import Cap, totals
from aembed.errors import BadRequestError


@dataclass(slots=True)
class LearnedLimits:
    """The smaller limits that this provider's refusals taught; kept for the life of the Embedder.

    Tokens are those of our own estimate. `counting` is what is known about how the provider counts them.
    """

    inputs: float = inf
    tokens: float = inf
    counting: Counting = field(default_factory=Counting)

    def narrow_cap(self, cap: Cap, *, estimated: bool = False) -> Cap:
        """The cap with these limits. `estimated` says that the provider may not count as `cap` does."""
        tokens = self.counting.estimate_of(cap.tokens) if estimated else cap.tokens
        return Cap(int(min(cap.inputs, self.inputs)), min(tokens, self.tokens))

    def is_allowed(self, inputs: int, tokens: float) -> bool:
        return inputs <= self.inputs and tokens <= self.tokens

    def learn(self, inputs: float | None, tokens: float | None) -> None:
        self.inputs = max(1, min(self.inputs, inputs or inf))
        self.tokens = max(1, min(self.tokens, tokens or inf))


def names_a_limit(error: BadRequestError) -> bool:
    return bool(error.max_batch_size or error.max_tokens_per_batch or error.max_tokens)


def limit_of_all(batch: Sequence[Item], error: BadRequestError) -> int | None:
    """The limit in tokens that an error names, if it is one of all texts together and not one of a single text.

    It is that only where our count of them all is about what the provider counted, and where no single one of them can
    be above it, as a token is a byte at least.
    """
    most, requested = error.max_tokens, error.requested_tokens
    if most is None or requested is None or not ALIKE <= requested / totals(batch)[1] <= MOST_SCALE:
        return None
    return most if max(utf8_bytes(text) for item in batch for text in item.texts) <= most else None
