"""This module says for budgets what texts may cost at the most where no tokenizer can count them.

That is their bytes, until replies have proven what words cost: a token of a text is a byte at least. Words in ASCII are
billed at about a quarter of that, and once a reply has said so, a byte of them is expected to cost no more than MARGIN
times the most that was ever billed for one. All else stays at a token a byte, since no reply about words tells of it:
Chinese costs 0.33 to 0.45 tokens a byte, Cherokee 1.0, and so do some runs without a space (keys, base64).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Measured in replies of OpenAI: English costs 0.24 tokens a byte, code up to 0.35, which is 1.46 times as much.
MARGIN = 1.5
"""A byte of words is expected to cost at most so many times the most that was ever billed for one."""
# Chosen: models mark a text with one to three tokens of their
# own; too few would let a budget be overdrawn by short texts.
MARKS = 4
"""Tokens that a model may add to each text, for its beginning and its end."""
# Chosen: English is billed at a fourth of its bytes, so half of that is left for odd texts. Larger, it would reject
# bills that are right; smaller, it would believe a `usage` of 1 for a long text, and budgets would allow too much.
LEAST_SHARE = 8
"""A bill of less than one part in so many of the most that its texts may cost is not believed."""
# Chosen: in fewer bytes the marks that a model adds would be laid to the words, and make them look dear.
LEAST_BYTES = 50
"""A request proves something of words only if it has so many bytes of them."""
# Chosen: some quotation marks and accents stand in any text. With many more the price of the words would be hidden.
FOREIGN = 0.1
"""A text of words has at most so many other bytes for each byte of words, and so has a request that proves something:
what they cost is laid to the words."""
# Chosen: words of English have about 6 bytes with their space; keys and base64 have no space at all. Smaller, texts
# with long words would be noted with their bytes, and budgets would stop too early.
LONGEST_WORD = 20
"""The words of a text that is made of words have so many bytes on the average, at the most."""


@dataclass(slots=True, kw_only=True)
class Bill:
    """What replies have cost so far. `price_usd` is dollars for 1,000,000 tokens, None where it is not known."""

    price_usd: float | None = None
    billed_tokens: int = 0
    named_tokens: int = 0
    named_cost_usd: float = 0.0
    """What the provider itself said that so many of the billed tokens cost."""

    def add_bill(self, tokens: int, cost_usd: float | None) -> None:
        self.billed_tokens += tokens
        if cost_usd is not None:
            self.named_tokens += tokens
            self.named_cost_usd += cost_usd

    @property
    def cost_usd(self) -> float | None:
        """The cost as the provider names it, and by its price for the tokens of which it named none."""
        unnamed = self.billed_tokens - self.named_tokens
        if self.price_usd is None:
            return self.named_cost_usd if self.named_tokens and not unnamed else None
        return self.named_cost_usd + unnamed * self.price_usd / 1_000_000


def cost_of(tokens: int, cost_usd: float | None, price_usd: float | None) -> float | None:
    """What one reply has cost, as it says itself or else by the price."""
    if cost_usd is not None or price_usd is None:
        return cost_usd
    return tokens * price_usd / 1_000_000


def billed_tokens(told: int | None, estimated: float) -> int:
    """A reply that does not say what it cost is counted as the provider estimates it."""
    return round(estimated) if told is None else told


@dataclass(slots=True)
class Billing:
    """What one provider was seen to bill.

    `share` is the most tokens that were ever billed for a byte of words; it is None while nothing is proven.
    """

    share: float | None = None

    @property
    def most_tokens_per_byte(self) -> float:
        """The most tokens that one byte of words is expected to cost."""
        return 1.0 if self.share is None else min(1.0, MARGIN * self.share)

    def most_billed(self, texts: Sequence[str]) -> float:
        """The most tokens that may be billed for them: the sum of what each may cost."""
        if self.share is None:
            return float(sum([utf8_bytes(text) for text in texts]))
        most = self.most_tokens_per_byte
        return sum([min(words, most * words + MARKS) + others for words, others in map(utf8_sizes, texts)])

    def is_believed(self, texts: Sequence[str], billed: int) -> bool:
        """Whether a reply's bill for these texts can be meant; if so, what it says of words is learned."""
        words, others = (sum(column) for column in zip(*map(utf8_sizes, texts), strict=True))
        if billed * LEAST_SHARE < words + others:
            return False
        if words >= LEAST_BYTES and others <= FOREIGN * words:
            self.share = max(self.share or 0.0, billed / words)
        return True


def utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def utf8_sizes(text: str) -> tuple[int, int]:
    """How many bytes of the text are words in ASCII, and how many of its UTF-8 are anything else."""
    total = utf8_bytes(text)
    if LONGEST_WORD * (text.count(" ") + text.count("\n")) < len(text):
        return 0, total
    words = total if total == len(text) else len(text.encode("ascii", "ignore"))
    return (words, total - words) if total - words <= FOREIGN * words else (0, total)
