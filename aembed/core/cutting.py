"""What `usage` proves of a provider that cuts long texts without a word.

Of a text that it cut only the beginning is found again, and nothing else says so: its vector looks like any other. The
routes of Ollama and LM Studio in OpenAI's format always cut, as do a text-embeddings-inference with --auto-truncate and
models behind gateways.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from math import ceil, log2

from aembed.core.billing import utf8_bytes

MOST_BYTES_A_TOKEN = 6.0
"""Of words: English has 4.5 in OpenAI's vocabularies. Only what is above it is looked at."""
MOST_INFORMATION_BYTES = 4.5
"""What zlib makes of the text of one token, at the most. Tokens of a vocabulary of 262,144 say 18 bits, and zlib needs
up to twice what there is to say."""
USUAL_INFORMATION_BYTES = 2.2
"""What it makes of a token of English."""
LEAST_A_WORD, USUAL_A_WORD = 0.8, 1.2
"""Tokens. Vocabularies end a token where a word ends; few know pairs of words."""
LEAST_LIMIT = 64
"""No model takes so few tokens; a `usage` that says so counts something else."""
COMMON_LIMIT = 128
"""Limits of models are multiples of it."""
COMMON, SAME_AGAIN, ENOUGH_BITS = 7.0, 3.0, 8.0
"""That a limit is such a multiple by chance is 1 of 2^7; that n texts have n times a whole number, 1 of n."""
MOST_COMPRESSED_BYTES = 500_000
"""About 5 ms of the event loop."""
MOST_TESTS = 50


class Cutting:
    """One provider's. `limit` is how many tokens it leaves of a text, once that is proven."""

    def __init__(self) -> None:
        self.limit: int | None = None
        self._bits = dict[int, float]()
        """How much speaks for it that every text of some requests was cut to so many tokens."""
        self._tests = 0

    def observe(self, texts: Sequence[str], tokens: float, billed: int | None) -> int:
        """How many of these texts were surely cut: `billed` is what the reply says, `tokens` a fourth of the bytes."""
        if not billed:
            return 0
        if self.limit is not None and billed > self.limit * len(texts):
            self.limit = None  # It leaves more than that.
        if self.limit is None:
            if self._tests > MOST_TESTS or billed * MOST_BYTES_A_TOKEN >= 4 * tokens:
                return 0
            self._tests += 1
            self.limit = self._proven(texts, billed)
        most = MOST_BYTES_A_TOKEN * self.limit if self.limit else None
        return 0 if most is None else sum(utf8_bytes(text) > most for text in texts)

    def _proven(self, texts: Sequence[str], billed: int) -> int | None:
        sizes = [utf8_bytes(text) for text in texts]
        share, rest = divmod(billed, len(texts))
        if not rest and min(sizes) > MOST_BYTES_A_TOKEN * share and share >= LEAST_LIMIT:
            known = self._bits.get(share)
            before = known + SAME_AGAIN if known is not None else COMMON * (share % COMMON_LIMIT == 0)
            self._bits[share] = before + log2(len(texts))
            if self._bits[share] >= ENOUGH_BITS:
                return share
        if sum(sizes) > MOST_COMPRESSED_BYTES:
            return None
        words = [len(text.split()) for text in texts]
        compressed = [len(zlib.compress(text.encode("utf-8", "replace"), 1)) for text in texts]
        both = list(zip(words, compressed, strict=True))
        if sum(max(LEAST_A_WORD * of_words, size / MOST_INFORMATION_BYTES) for of_words, size in both) <= billed:
            return None
        usual = [max(USUAL_A_WORD * of_words, size / USUAL_INFORMATION_BYTES) for of_words, size in both]
        limit = ceil(_level(usual, billed))
        return limit if limit >= LEAST_LIMIT else None


def _level(amounts: Sequence[float], total: float) -> float:
    """At which the amounts, each cut to it, have that total."""
    left = len(amounts)
    for amount in sorted(amounts):
        if amount * left >= total:
            break
        total -= amount
        left -= 1
    return total / max(1, left)
