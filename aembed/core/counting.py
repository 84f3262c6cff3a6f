"""How a provider counts tokens for the limit of a request, where nobody knows: its replies and refusals say it.

A server of one's own, or one behind a gateway, may count 0.2 % more than our estimate, or half as much again. There a
request that is filled to the last token of our estimate is refused, each time.
"""

from __future__ import annotations

from dataclasses import dataclass

RESERVE = 0.01
"""Of max_tokens_per_batch, until so many replies, to as many tokens as one request may have, have told."""
ENOUGH_REPLIES = 3
ENOUGH_TOKENS = 500
"""In a request that tells: in a smaller one the rounding of each text counts for too much."""
MOST_SCALE = 8.0
"""Above that it is another request that is spoken of."""
MOST_USAGE_SCALE = 2.0
"""Above that `usage` is in another unit: characters, or it is invented."""
ALIKE = 0.8
"""The least part of our estimate that may still be a count of the same texts."""
SPREAD = 2.0
"""How much of the difference between requests is left free."""
LEAST_SPREAD = 5e-4
FADING = 0.02
"""The scale follows a higher one at once, and a lower one by that part of the way with each reply."""
NEARLY = 0.9
"""Of a limit. A request that has more of it than that part, and is said to be above it, is counted otherwise there."""
STEP = 1.02


@dataclass(slots=True)
class Counting:
    """What `usage` says of the tokens that the provider counts for one of our estimate."""

    replies: int = 0
    tokens: float = 0.0
    most: float = 0.0
    least: float = 0.0

    def observe(self, estimated: float, billed: int | None) -> None:
        """A reply to a request of so many tokens says that it cost so many."""
        if billed is None or estimated < ENOUGH_TOKENS or not 0.0 < (ratio := billed / estimated) <= MOST_USAGE_SCALE:
            return
        if not self.replies:
            self.most = self.least = ratio
        self.replies += 1
        self.tokens += estimated
        self.most = max(ratio, self.most + FADING * (ratio - self.most))
        self.least = min(ratio, self.least + FADING * (ratio - self.least))

    def within(self, tokens: float) -> float:
        """How many of our estimate are surely no more than so many of the provider's."""
        if self.replies < ENOUGH_REPLIES or self.tokens < tokens:
            return tokens * (1.0 - RESERVE) / max(1.0, self.most)
        spread = min(RESERVE, max(LEAST_SPREAD, SPREAD * (self.most - self.least)))
        return tokens / max(1.0, self.most * (1.0 + spread))


def fitting_tokens(estimated: float, most: int, requested: int | None) -> float:
    """How many of our estimate a request may have, where one of `estimated` was refused for having `requested`.

    A request that was only just too large makes the next one just enough smaller, and not half the size.
    """
    if requested is not None and most < requested <= MOST_SCALE * estimated:
        scale = requested / estimated
        return most / (scale * (1.0 + LEAST_SPREAD)) if scale > 1.0 else most
    if NEARLY * most < estimated <= most:
        return estimated / STEP
    return most
