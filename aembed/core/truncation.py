"""This module proves from `usage` that a provider cuts long texts without a word.

Only the beginning of a text that was cut is found again, and nothing else says so: its vector looks like any other. The
routes of Ollama and LM Studio in OpenAI's format always cut, as do a text-embeddings-inference with --auto-truncate and
models behind gateways.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, log2

from aembed.core.billing import utf8_bytes

# Chosen above what was measured: words of English have 4.5 bytes a token in OpenAI's vocabularies. Smaller, ordinary
# texts would be tested again and again; larger, cutting by a third would never be looked at.
MOST_BYTES_A_TOKEN = 6.0
"""Only a request with more bytes than this for each billed token is looked at."""
# Computed: a token of a vocabulary of 262,144 says 18 bits,
# 2.25 bytes, and zlib needs up to twice what there is to say.
MOST_INFORMATION_BYTES = 4.5
"""The most bytes that zlib makes of the text of one token."""
# Half of the most, as for words. It decides how exact the limit is that is told, and not whether there is one.
USUAL_INFORMATION_BYTES = 2.2
"""The bytes that zlib makes of a token of English."""
# Chosen: vocabularies end a token where a word ends, and few know pairs of words, so texts have hardly fewer tokens
# than words. Were the first larger, texts that were not cut would be said to be.
LEAST_A_WORD, USUAL_A_WORD = 0.8, 1.2
"""The least tokens that a word has on the average, and the usual number."""
# Chosen: no model takes so few tokens; a `usage` that says so counts something else.
LEAST_LIMIT = 64
"""A limit below this is not believed."""
# Limits of models that are in use are 128, 256, 384, 512, 2,048, 8,192 ...
COMMON_LIMIT = 128
"""Limits of models are multiples of this."""
# Computed: a limit is a multiple of 128 by chance once in 2^7; n texts have n times a whole number once in n.
# SAME_AGAIN and ENOUGH_BITS are chosen: a wrong warning in less than one of 2^8 cases that look like cutting.
COMMON, SAME_AGAIN, ENOUGH_BITS = 7.0, 3.0, 8.0
"""Evidence in bits: of a common limit, of a limit that was seen before, and what is enough."""
# Law 11: CPU work on the event loop takes no longer than 5 ms. zlib at level 1 takes about that for so much text.
MOST_COMPRESSED_BYTES = 500_000
"""Requests with more text than this are not compressed to find out."""
# Chosen: after so many requests that looked like cutting and proved nothing, the vocabulary is an odd one; without an
# end each further request would take milliseconds.
MOST_TESTS = 50
"""So many requests are tested in the life of an Embedder."""


@dataclass(eq=False, repr=False)
class Truncation:
    """What is known of one provider. `limit` is how many tokens it leaves of a text, once that is proven."""

    limit: int | None = None
    _bits: dict[int, float] = field(default_factory=dict[int, float])
    """The evidence, in bits, that every text of some requests was cut to so many tokens, by that number."""
    _tests: int = 0

    def observe(self, texts: Sequence[str], tokens: float, billed: int | None) -> int:
        """Returns how many of these texts were surely cut.

        `billed` is the number of tokens that the reply names, `tokens` a fourth of the bytes.
        """
        if not billed:
            return 0
        if self.limit is not None and billed > self.limit * len(texts):
            self.limit = None  # It leaves more than that.
        if self.limit is None:
            if self._tests > MOST_TESTS or billed * MOST_BYTES_A_TOKEN >= 4 * tokens:
                return 0
            self._tests += 1
            self.limit = self._proven_limit(texts, billed)
        most = MOST_BYTES_A_TOKEN * self.limit if self.limit else None
        return 0 if most is None else sum(utf8_bytes(text) > most for text in texts)

    def _proven_limit(self, texts: Sequence[str], billed: int) -> int | None:
        """The limit to which these texts were cut; None where the bill proves none.

        Two things prove one: a bill of exactly as many times a round number as there are texts, or a bill below what
        the words and the information of the texts need at the least.
        """
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
    """The level at which the amounts, each cut to it, have that total."""
    left = len(amounts)
    for amount in sorted(amounts):
        if amount * left >= total:
            break
        total -= amount
        left -= 1
    return total / max(1, left)
