from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aembed.core.packing import LEAST_SHARE_TOKENS, Cap, Window, halves, pack, share, taper

OPENAI = Cap(2_048, 300_000)


@dataclass(frozen=True)
class Text:
    tokens: float
    inputs: int = 1


texts = st.builds(Text, st.floats(0.25, 8_191), st.integers(1, 3))
short_texts = st.builds(Text, st.floats(0.25, 40))


def least(items: list[Text], cap: Cap) -> int:
    return cap.least_batches(sum(item.inputs for item in items), sum(item.tokens for item in items))


def fits(items: list[Text], cap: Cap) -> bool:
    return sum(item.inputs for item in items) <= cap.inputs and sum(item.tokens for item in items) <= cap.tokens


@given(st.lists(texts | short_texts, max_size=400), st.integers(1, 2_000))
@example([Text(8_191)] * 360, 1)
@example([Text(8_191)] * 360 + [Text(1)] * 20_480, 1)
@example([Text(0.25)] * 20_481, 1)
def test_pack_is_legal_complete_and_minimal(items: list[Text], repeat: int) -> None:
    items = items * max(1, min(repeat, 4_000 // max(1, len(items))))
    batches = pack(items, OPENAI)
    assert sorted(map(repr, items)) == sorted(repr(item) for batch in batches for item in batch)
    assert all(fits(batch, OPENAI) for batch in batches)
    assert len(batches) <= least(items, OPENAI) + 2
    assert not any(fits(left + right, OPENAI) for left, right in pairwise(batches))


@given(st.lists(st.floats(1, 100), max_size=200), st.integers(1, 20), st.integers(100, 1_000))
def test_small_caps_are_kept_and_no_two_neighbours_fit_in_one(sizes: list[float], inputs: int, tokens: int) -> None:
    cap = Cap(inputs, tokens)
    batches = pack([Text(size) for size in sizes], cap)
    assert sum(map(len, batches)) == len(sizes)
    assert all(fits(batch, cap) for batch in batches)
    assert not any(fits(left + right, cap) for left, right in pairwise(batches))


@given(st.lists(texts, min_size=1, max_size=300))
def test_a_window_that_is_refilled_gives_full_batches(items: list[Text]) -> None:
    """A stream: batches are taken while more comes in, so each must be full to within one text."""
    cap = Cap(64, 60_000)
    window = Window[Text]()
    for item in items:
        window.add(item)
        while window.is_full(cap, 4):
            batch = window.take(cap)
            assert fits(batch, cap)
            assert sum(i.inputs for i in batch) > cap.inputs - 3 or sum(i.tokens for i in batch) > cap.tokens - 8_191
    inputs, tokens = window.inputs, window.tokens
    left = window.clear()
    assert inputs == sum(item.inputs for item in left)
    assert tokens == pytest.approx(sum(item.tokens for item in left))


def test_what_does_not_fit_in_the_only_batch_stays_counted() -> None:
    window = Window[Text]()
    for _ in range(3):
        window.add(Text(40))
    assert window.take(Cap(10, 100)) == [Text(40), Text(40)]
    assert (len(window), window.inputs, window.tokens) == (1, 1, 40)


def test_an_item_above_the_cap_goes_alone() -> None:
    assert pack([Text(10), Text(500), Text(10)], Cap(10, 100)) == [[Text(500)], [Text(10), Text(10)]]


@given(st.integers(1, 300), st.integers(1, 64), st.floats(0, 300_000))
def test_share_fills_waves_with_at_most_concurrency_more_requests(count: int, slots: int, tokens: float) -> None:
    shared = share(count, tokens, slots)
    assert count <= shared <= count + slots - 1
    assert shared == count or shared % slots == 0 or shared == ceil(tokens / LEAST_SHARE_TOKENS)


def test_a_small_job_uses_all_slots_and_a_tiny_one_does_not() -> None:
    assert share(1, 30_000, 8) == 8
    assert share(1, 500, 8) == 1
    assert share(9, 2_600_000, 8) == 16


@given(st.floats(1, 3_000_000), st.integers(4, 64))
def test_a_paced_job_ends_in_batches_that_shrink_to_a_sixteenth_with_nine_more_requests(
    left: float, slots: int
) -> None:
    cap = Cap(2_048, 270_000, paced=True)
    sizes, least, whole = [], cap.least_batches(1, left), left
    while left:
        batches = taper(cap.least_batches(1, left), left, cap, slots)
        size = min(left / batches, cap.tokens)
        sizes.append(size)
        left = left - size if batches > 1 else 0.0
    assert sizes[-1] <= cap.tokens / 16
    assert len(sizes) <= least + 9
    assert sum(sizes) == pytest.approx(whole)


def test_a_paced_job_of_one_slot_sends_no_more_requests_than_it_must() -> None:
    assert taper(2, 400_000, Cap(2_048, 270_000, paced=True), 1) == 2


@given(st.lists(st.integers(), min_size=2))
def test_halves_lose_nothing(batch: list[int]) -> None:
    left, right = halves(batch)
    assert [*left, *right] == batch
    assert len(left) <= len(right) <= len(left) + 1
