from __future__ import annotations

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.billing import LEAST_BYTES, MARGIN, MARKS, Billing, utf8_sizes

WORDS = "these are the words of an English text, as there are many of them"
texts = st.lists(st.text(max_size=60), min_size=1, max_size=5)


@given(texts)
def test_a_text_costs_no_more_than_its_bytes_and_at_first_just_these(given: list[str]) -> None:
    total = sum(len(text.encode("utf-8", "surrogatepass")) for text in given)
    given = [text.encode("utf-8", "replace").decode() for text in given]
    total = sum(len(text.encode()) for text in given)
    assert Billing().most_billed(given) == total == sum(map(sum, map(utf8_sizes, given)))
    assert Billing(0.25).most_billed(given) <= total


def test_a_reply_proves_what_words_cost_and_no_other_bytes() -> None:
    billing = Billing()
    assert billing.is_believed([WORDS] * 10, 160)
    assert billing.share == 160 / (10 * len(WORDS))
    assert billing.most_billed([WORDS]) == pytest.approx(MARGIN * 16 + MARKS)
    chinese = "中文的句子 在这里"
    assert billing.most_billed([chinese]) == len(chinese.encode())
    key = "c2stcHJvai1hYmNkZWZnaGlqa2xtbm9w" * 4
    assert billing.most_billed([key]) == len(key)
    apart = billing.most_billed([WORDS]) + len(key) + billing.most_billed([chinese])
    assert billing.most_billed([WORDS, key, chinese]) == pytest.approx(apart)
    assert billing.most_billed(["short"]) == 5


def test_the_dearest_reply_counts() -> None:
    billing = Billing()
    for tokens in (100, 300, 200):
        billing.is_believed([WORDS] * 10, tokens)
    assert billing.share == 300 / (10 * len(WORDS))


def test_what_proves_nothing() -> None:
    billing = Billing()
    assert billing.is_believed(["a few words"], 5), f"less than {LEAST_BYTES} bytes"
    assert billing.is_believed(["中文的句子在这里 " * 5 + WORDS], 60)
    assert billing.is_believed(["abcdef" * 30], 60)
    assert not billing.is_believed([WORDS] * 10, 3), "nobody bills so little"
    assert billing.share is None


def test_a_bill_above_the_bytes_makes_no_text_dearer_than_its_bytes() -> None:
    billing = Billing()
    billing.is_believed([WORDS], 3 * len(WORDS))
    assert billing.most_billed([WORDS]) == len(WORDS)


def test_the_real_tokenizers_stay_below_it() -> None:
    """Once English has proven what words cost; each text by itself."""
    others = [
        "def f(x):\n    return [each ** 2 for each in x if each > 0]\n" * 3,
        "Ein Satz mit Umlauten: Größe, Übung, Öl, und was man so sagt.",
        "Ἐν ἀρχῇ ἦν ὁ λόγος, καὶ ὁ λόγος ἦν πρὸς τὸν θεόν",
        "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ " * 5,
        "한국어 문장입니다. " * 5,
        "0123456789abcdef" * 20,
        "😀🎉 " * 10,
    ]
    for name in ("cl100k_base", "o200k_base"):
        tokenizer, billing = tiktoken.get_encoding(name), Billing()
        billing.is_believed([WORDS] * 20, 20 * len(tokenizer.encode(WORDS)))
        for text in others:
            assert len(tokenizer.encode(text)) <= billing.most_billed([text])
