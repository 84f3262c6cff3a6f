"""What usage proves of cutting: real text in OpenAI's vocabularies, and odd text that only looks cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random

import pytest

from aembed.core.billing import utf8_bytes
from aembed.core.truncation import Truncation
from tests.service.bills import by_tokenizer, cut_to
from tests.service.service import Bill

DOCUMENTS = Path(__file__).parent.parent / "documents"
JOINED = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCUMENTS.rglob("*.md")))
THAI = "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอนหรือวรรณยุกต์เช่นเดียวกับภาษาจีนและออกเสียงแยกคำต่อคำ "


def documents(random: Random) -> str:
    size = random.randrange(50, 20_000)
    start = random.randrange(len(JOINED) - size)
    return JOINED[start : start + size]


KINDS: dict[str, Callable[[Random], str]] = {
    "documents": documents,
    "one word": lambda random: "word " * random.randrange(20, 3_000),
    "thai": lambda random: THAI * random.randrange(1, 60),
    "tables": lambda random: "| a | b |\n|---|---|\n" * random.randrange(3, 500),
    "spaces": lambda random: " " * random.randrange(100, 9_000) + "x",
    "hex": lambda random: random.randbytes(random.randrange(100, 3_000)).hex(),
}


def cut_of(kind: str, bill: Bill, seed: int, requests: int = 10) -> tuple[int, int, Truncation]:
    """Of texts of that kind: how many were said to be cut, how many were, and what was learned."""
    random, truncation, said, cut = Random(seed), Truncation(), 0, 0
    for _ in range(requests):
        texts = [KINDS[kind](random) for _ in range(random.choice([1, 2, 5, 20]))]
        said += truncation.observe(texts, sum(map(utf8_bytes, texts)) / 4, bill([text.encode() for text in texts]))
        cut += sum(counted([text.encode()]) > 512 for text in texts)
    return said, cut, truncation


def counted(contents: Sequence[bytes]) -> int:
    return tokenizer()(contents)


@cache
def tokenizer() -> Bill:
    return by_tokenizer("cl100k_base")


@pytest.mark.parametrize("kind", KINDS)
def test_a10_texts_that_were_not_cut_are_never_said_to_be(kind: str) -> None:
    assert [cut_of(kind, counted, seed)[0] for seed in range(3)] == [0] * 3


@pytest.mark.parametrize("kind", ["documents", "one word", "thai"])
@pytest.mark.parametrize("seed", range(3))
def test_a10_what_a_server_leaves_of_long_texts_is_seen(kind: str, seed: int) -> None:
    said, cut, truncation = cut_of(kind, cut_to(512, counted), seed)
    assert truncation.limit is not None
    assert truncation.limit == pytest.approx(512, rel=0.1)
    assert 0.3 * cut <= said <= cut


def test_a10_a_limit_that_a_later_reply_contradicts_is_forgotten() -> None:
    truncation = Truncation()
    assert truncation.observe(["word " * 2_400, "word " * 2_000], 5_500, 1_024) == 2
    assert truncation.observe(["word " * 2_400, "word " * 2_000], 5_500, 4_402) == 0
    assert truncation.limit is None


@pytest.mark.parametrize("usage", [1, 8, 20, 40])
def test_a10_a_usage_that_counts_something_else_proves_nothing(usage: int) -> None:
    truncation = Truncation()
    assert sum(truncation.observe([JOINED[i : i + 9_000]] * 2, 4_500, usage) for i in range(20)) == 0
