"""What the inputs of a request cost, by other rules than the simulated service's own (UTF-8 bytes / 4)."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from tests.service.service import Bill


def by_tokenizer(encoding: str) -> Bill:
    """As OpenAI bills: the tokens of its tokenizer, of which the vocabulary must be at hand."""
    import tiktoken

    tokenizer = tiktoken.get_encoding(encoding)

    def bill(contents: Sequence[bytes]) -> int:
        return sum(len(tokenizer.encode(content.decode(), disallowed_special=())) for content in contents)

    return bill


def by_script(ascii_share: float = 0.25, other_share: float = 1.0) -> Bill:
    """A share of a token for each byte of ASCII, and for each of all else: Chinese 0.33 to 0.45, Cherokee 1.0."""

    def bill(contents: Sequence[bytes]) -> int:
        total, others = sum(map(len, contents)), sum(sum(byte > 127 for byte in content) for content in contents)
        return ceil(ascii_share * (total - others) + other_share * others)

    return bill


def with_special_tokens(bill: Bill, each: int) -> Bill:
    """So many more for each input: the marks at the beginning and the end of a text that most models put there."""
    return lambda contents: bill(contents) + each * len(contents)


def cut_to(tokens: int, bill: Bill) -> Bill:
    """A server that embeds so many tokens of each text and says nothing of the rest."""
    return lambda contents: sum(min(tokens, bill([content])) for content in contents)
