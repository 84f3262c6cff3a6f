"""What texts may cost that nobody can count, for budgets: their bytes, until replies have proven what words cost.

A token of a text is a byte at least. Words in ASCII are billed at about a quarter of that, and once a reply has said so
a byte of them is expected to cost no more than MARGIN times the most that was ever billed for one. All else stays at a
token a byte, since no reply about words tells of it: Chinese costs 0.33 to 0.45 tokens a byte, Cherokee 1.0, and so do
some runs without a space (keys, base64).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MARGIN = 1.5
"""Where English costs 0.24 tokens a byte, code costs up to 0.35."""
MARKS = 4
"""Tokens that a model may add to each text, for its beginning and its end."""
LEAST_SHARE = 8
"""A bill of less than this part of the most that its texts may cost is not believed."""
LEAST_BYTES = 50
"""Of words, in a request that proves something."""
FOREIGN = 0.1
"""The most other bytes, for each of words, in a text of words, and in a request that proves something: what they cost
is laid to the words."""
LONGEST_WORD = 20
"""Bytes, on the average, of a text that is made of words."""


@dataclass(slots=True)
class Billing:
    """One provider's. `share` is the most tokens that were ever billed for a byte of words; None: nothing is proven."""

    share: float | None = None

    @property
    def of_a_byte(self) -> float:
        """What one of words is expected to cost at the most."""
        return 1.0 if self.share is None else min(1.0, MARGIN * self.share)

    def most(self, texts: Sequence[str]) -> float:
        """The most tokens that may be billed for them: the sum of what each may cost."""
        if self.share is None:
            return float(sum([utf8_bytes(text) for text in texts]))
        return sum([self._most(text) for text in texts])

    def _most(self, text: str) -> float:
        words, others = sizes(text)
        return min(words, self.of_a_byte * words + MARKS) + others

    def believed(self, texts: Sequence[str], billed: int) -> bool:
        """Whether a reply's bill can be meant. It is learned from."""
        words, others = (sum(column) for column in zip(*map(sizes, texts), strict=True))
        if billed * LEAST_SHARE < words + others:
            return False
        if words >= LEAST_BYTES and others <= FOREIGN * words:
            self.share = max(self.share or 0.0, billed / words)
        return True


def utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def sizes(text: str) -> tuple[int, int]:
    """Bytes of words in ASCII, and all others of its UTF-8."""
    total = utf8_bytes(text)
    if LONGEST_WORD * (text.count(" ") + text.count("\n")) < len(text):
        return 0, total
    words = total if total == len(text) else len(text.encode("ascii", "ignore"))
    return (words, total - words) if total - words <= FOREIGN * words else (0, total)
