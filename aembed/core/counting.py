"""This module learns from replies and refusals how a provider counts tokens for the limit of a request.

A server of one's own, or one behind a gateway, may count 0.2 % more than our estimate, or half as much again. There a
request that is filled to the last token of our estimate is refused, each time.
"""

from __future__ import annotations

from dataclasses import dataclass

# Chosen: servers were seen to count 0.2 % more than our estimate;
# 1 % is five times that, and costs 1 % of the requests.
RESERVE = 0.01
"""The part of max_tokens_per_batch that is left free until enough replies have told how the provider counts."""
# Chosen: with one reply there is no spread between requests to be seen; more than a few would waste the reserve longer.
ENOUGH_REPLIES = 3
"""So many replies, to as many tokens together as one request may have, are enough."""
# Chosen: in a smaller request the rounding of each text counts for too much.
ENOUGH_TOKENS = 500
"""A request tells something only if it has so many tokens."""
# Chosen: where our estimate is a fourth of the bytes, a text costs at most four times that, for a token is a byte at
# least; 8 leaves room. Larger, a number that means something else would shrink all batches.
MOST_SCALE = 8.0
"""A refusal that names more than so many times our estimate speaks of another request."""
# Chosen: Chinese costs up to 0.45 tokens a byte, which is 1.8 times an estimate of a fourth. Infinity, for one, counts
# characters in `usage`, which are four times as many. (Of rare scripts such as Cherokee nothing is learned then.)
MOST_USAGE_SCALE = 2.0
"""Above that `usage` is in another unit, such as characters, or it is invented."""
# Chosen: a count of the same texts that is much lower than our estimate would be a count of something else.
ALIKE = 0.8
"""The least part of our estimate that may still be a count of the same texts."""
# Chosen: the next request may differ from the mean as much as the extremes did from each other, and once more.
SPREAD = 2.0
"""So many times the difference that was seen between requests is left free."""
# Chosen: where all requests agreed, a request is still kept 0.05 % below the limit, for rounding.
LEAST_SPREAD = 5e-4
"""The least share of a limit that is left free."""
# Chosen: a high count is forgotten over about fifty replies; faster, each dear batch would be refused again and again.
FADING = 0.02
"""The scale follows a higher one at once, and a lower one by that part of the way with each reply."""
# Chosen: a request that is well below a limit, and is refused as above it, is refused for another reason.
NEARLY = 0.9
"""A request that has more than this part of a limit, and is said to be above it, is counted otherwise there."""
# Chosen: a little more than RESERVE, so that the next request is smaller for sure; a refusal more costs less than a
# batch of half the size for ever.
STEP = 1.02
"""Such a request makes the next one smaller by this factor, where the refusal names no number."""


@dataclass(slots=True)
class Counting:
    """How many tokens the provider counts for each one of our estimate, as `usage` says it."""

    replies: int = 0
    tokens: float = 0.0
    most: float = 0.0
    least: float = 0.0

    def observe(self, estimated: float, billed: int | None) -> None:
        """Learns from a reply that billed so many tokens for a request that we had estimated at so many."""
        if billed is None or estimated < ENOUGH_TOKENS or not 0.0 < (ratio := billed / estimated) <= MOST_USAGE_SCALE:
            return
        if not self.replies:
            self.most = self.least = ratio
        self.replies += 1
        self.tokens += estimated
        self.most = max(ratio, self.most + FADING * (ratio - self.most))
        self.least = min(ratio, self.least + FADING * (ratio - self.least))

    def estimate_of(self, tokens: float) -> float:
        """How many tokens of our estimate are surely no more than so many of the provider's."""
        if self.replies < ENOUGH_REPLIES or self.tokens < tokens:
            return tokens * (1.0 - RESERVE) / max(1.0, self.most)
        spread = min(RESERVE, max(LEAST_SPREAD, SPREAD * (self.most - self.least)))
        return tokens / max(1.0, self.most * (1.0 + spread))


def fitting_tokens(estimated: float, most: int, requested: int | None) -> float:
    """How many tokens of our estimate a request may have, where one of `estimated` was refused for having `requested`.

    A request that was only just too large makes the next one just enough smaller, and not half the size.
    """
    if requested is not None and most < requested <= MOST_SCALE * estimated:
        scale = requested / estimated
        return most / (scale * (1.0 + LEAST_SPREAD)) if scale > 1.0 else most
    if NEARLY * most < estimated <= most:
        return estimated / STEP
    return most
