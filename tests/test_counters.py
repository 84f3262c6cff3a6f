from __future__ import annotations

import asyncio
import logging
from functools import cache

import anyio.to_thread
import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aembed.core.changes import Entry, Fingerprinter, Item
from aembed.counters import ByteCounter, Measure, TiktokenCounter, load_counter
from aembed.errors import InputError
from aembed.limits import Limits
from aembed.types import Record, Space, TooLong

LIMITS = Limits(2_048, 300_000, 8_191, encoding="cl100k_base")
PANIC = " " * 1_000_067 + "x"
"""tiktoken's encode_ordinary dies of a PanicException on this, which is no Exception."""
MOST_BYTES = 8_191 * 128


@cache
def encoding() -> tiktoken.Encoding:
    return tiktoken.get_encoding("cl100k_base")


@cache
def counter() -> TiktokenCounter:
    return TiktokenCounter("cl100k_base")


def entry_of(text: str, limits: Limits = LIMITS) -> Entry:
    fingerprinter = Fingerprinter(Space("openai", "small", 3), "document", "error", limits.max_tokens_per_text)
    return fingerprinter.make_entry(0, Record("an id", text))


async def measured(text: str, too_long: TooLong = "error", limits: Limits = LIMITS, *, exact: bool = False) -> Item:
    measure, entry = Measure(limits, too_long, anyio.to_thread.run_sync, exact=exact), entry_of(text, limits)
    return measure.measure_quickly(entry) or await measure.measure(entry)


@pytest.mark.parametrize("text", ["x", "ab" * 4_095, "ü" * 4_095])
async def test_a_text_of_no_more_bytes_than_tokens_is_not_counted(text: str) -> None:
    item = Measure(LIMITS, "error", anyio.to_thread.run_sync).measure_quickly(entry_of(text))
    assert item is not None
    assert item.texts == (text,)
    assert item.tokens == len(text.encode()) / 4


@pytest.mark.parametrize("tokens", [8_190, 8_191])
@pytest.mark.parametrize("word", [" hello", " 你好吗"])
async def test_i3_a_text_of_just_enough_tokens_is_sent_as_it_is(tokens: int, word: str) -> None:
    text = text_of(tokens, word)
    item = await measured(text)
    assert item.texts == (text,)
    assert item.weights == (float(tokens),)
    assert item.tokens == max(tokens, len(text.encode()) / 4)


@pytest.mark.parametrize("tokens", [8_192, 8_193, 100_000])
@pytest.mark.parametrize("word", [" hello", " 你好吗"])
async def test_i3_a_text_of_too_many_tokens_is_refused_with_its_count_and_what_to_do(tokens: int, word: str) -> None:
    with pytest.raises(InputError) as raised:
        await measured(text_of(tokens, word))
    advice = 'cut it into records, or choose too_long="truncate" or "split"'
    assert str(raised.value) == f"the text of 'an id': {tokens:,} tokens, the limit is 8,191; {advice}"


def text_of(tokens: int, word: str) -> str:
    """A text of exactly that many tokens."""
    size = len(encoding().encode(word))
    text = word * (tokens // size) + " a" * (tokens % size)
    assert len(encoding().encode(text)) == tokens
    return text


@pytest.mark.parametrize("tokens", [8_192, 20_000])
async def test_i3_truncate_keeps_the_longest_start_that_fits(tokens: int) -> None:
    text = text_of(tokens, " hello")
    item = await measured(text, "truncate")
    assert item.texts == (text[: 8_191 * len(" hello")],)
    assert item.weights == (8_191.0,)


async def test_i3_split_keeps_all_of_the_text_in_pieces_that_fit() -> None:
    text = text_of(20_000, " hello")
    item = await measured(text, "split")
    assert "".join(item.texts) == text
    assert item.weights == (8_191.0, 8_191.0, 3_618.0)
    assert item.tokens == sum(
        max(len(piece) / 4, weight) for piece, weight in zip(item.texts, item.weights, strict=True)
    )


@pytest.mark.parametrize("run", ["a", " ", "\n", "^", "ß"])
@pytest.mark.parametrize("too_long", ["error", "truncate", "split"])
async def test_i4_one_run_of_a_megabyte_gets_a_verdict_while_the_loop_lives(run: str, too_long: TooLong) -> None:
    text = "x" + run * (999_998 // len(run.encode())) + "x"
    ticks = [0]
    ticking = asyncio.create_task(tick(ticks))
    found = await verdict(text, too_long)
    ticking.cancel()
    assert ticks[0] >= 3  # tokenized in the loop itself, it would not have ticked at all
    if isinstance(found, Item):
        assert all(weight <= 8_191 for weight in found.weights)
        assert text.startswith("".join(found.texts))
        assert too_long == "truncate" or found.texts[-1].endswith("x")
    else:
        # A million spaces are 7,815 tokens; the others are too many.
        assert (too_long, run == " ") == ("error", False)
        assert "tokens, the limit is 8,191" in found


async def verdict(text: str, too_long: TooLong) -> Item | str:
    try:
        return await measured(text, too_long)
    except InputError as error:
        return str(error)


async def tick(ticks: list[int]) -> None:
    while True:
        await asyncio.sleep(0.001)
        ticks[0] += 1


@pytest.mark.parametrize("text", [PANIC, "\n" * 1_000_067 + "x", " " * 1_040_000 + "x"])
@pytest.mark.parametrize("too_long", ["error", "truncate", "split"])
async def test_i5_a_text_that_tiktoken_cannot_read_fails_alone(text: str, too_long: TooLong) -> None:
    assert len(text) <= MOST_BYTES
    found = await verdict(text, too_long)
    if isinstance(found, Item):
        assert too_long != "error"
        assert all(weight <= 8_191 for weight in found.weights)
    else:
        assert found.startswith("the text of 'an id': ")


def test_i5_tiktoken_does_panic_on_it() -> None:
    with pytest.raises(BaseException, match=r"StackOverflow|RuntimeError") as raised:
        encoding().encode_ordinary(PANIC)
    assert not isinstance(raised.value, Exception)
    with pytest.raises(InputError, match="tokenizer"):
        counter().count(PANIC)


async def test_i5_more_bytes_than_that_many_tokens_can_hold_is_refused_uncounted() -> None:
    with pytest.raises(InputError, match=r"1,048,449 bytes cannot be 8,191 tokens, the limit; cut it"):
        await measured("x" * (MOST_BYTES + 1))


@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base"])
async def test_i6_special_tokens_are_ordinary_text(name: str) -> None:
    exact, read = TiktokenCounter(name), tiktoken.get_encoding(name)
    assert read.special_tokens_set
    for special in read.special_tokens_set:
        assert exact.count(special) == len(read.encode_ordinary(special)) > 1
        text = (special + " and so on ") * 2_000
        assert "".join(exact.cut(text, 1_000)) == text
        item = await measured(text, "split", Limits(2_048, 300_000, 1_000, encoding=name))
        assert "".join(item.texts) == text


@settings(deadline=None, max_examples=150)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(1, 50), st.integers(4, 30))
@example("\x81ࠂ\x81", 1, 4)
def test_i3_pieces_are_whole_short_enough_and_all_of_the_text(text: str, times: int, most: int) -> None:
    whole = text * times
    for each in (counter(), ByteCounter()):
        pieces = list(each.cut(whole, most))
        assert "".join(pieces) == whole
        assert all(piece and each.count(piece) <= most for piece in pieces)


@pytest.mark.parametrize("each", [ByteCounter(), "tiktoken"])
def test_a_character_that_is_longer_than_a_piece_is_refused(each: ByteCounter | str) -> None:
    with pytest.raises(InputError, match="no part of the text has 1 "):
        list((counter() if isinstance(each, str) else each).cut("𓀀" * 3, 1))


async def test_what_a_budget_reserves_is_never_less_than_the_tokens() -> None:
    text = "你好吗" * 100
    item = await measured(text, exact=True)
    assert item.tokens == max(len(encoding().encode(text)), len(text.encode()) / 4)
    assert (await measured(text)).tokens == len(text.encode()) / 4


@pytest.mark.parametrize("too_long", ["error", "truncate", "split"])
async def test_without_a_vocabulary_texts_are_measured_by_their_bytes(
    too_long: TooLong, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(2_048, 300_000, 100, encoding=f"no such vocabulary {too_long}")
    with caplog.at_level(logging.WARNING, "aembed"):
        item = await measured("x" * 400, too_long, limits)
        await measured("x" * 300, too_long, limits)
    assert [len(text) for text in item.texts] == {"error": [400], "truncate": [100], "split": [100] * 4}[too_long]
    assert item.tokens == sum(map(len, item.texts)) / 4
    [told] = caplog.messages
    assert "texts are measured by their bytes" in told


async def test_without_a_vocabulary_a_text_above_the_estimate_is_refused() -> None:
    with pytest.raises(InputError, match="'an id': about 101 tokens, the limit is 100"):
        await measured("x" * 404, "error", Limits(2_048, 300_000, 100))


def test_a_vocabulary_is_loaded_once() -> None:
    assert load_counter("cl100k_base") is load_counter("cl100k_base")
    assert isinstance(load_counter(None), ByteCounter)
