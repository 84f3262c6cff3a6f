from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aembed.core.packing import LEAST_SHARE_TOKENS, Cap, Window, count_last_batches, fitting_items, halves, pack, taper
from aembed.limits import Limits

OPENAI = Cap(2_048, 300_000)


@dataclass(frozen=True)
class Text:
    tokens: float
    inputs: int = 1

    @property
    def texts(self) -> Sequence[str]:
        return ("",) * self.inputs


texts = st.builds(Text, st.floats(0.25, 8_191), st.integers(1, 3))
short_texts = st.builds(Text, st.floats(0.25, 40))


def least(items: list[Text], cap: Cap) -> int:
    return cap.least_batches(sum(item.inputs for item in items), sum(item.tokens for item in items))


def fits(items: list[Text], cap: Cap) -> bool:
    return sum(item.inputs for item in items) <= cap.inputs and sum(item.tokens for item in items) <= cap.tokens


def test_the_cap_of_a_provider_is_what_it_accepts_and_is_not_paced() -> None:
    limits = Limits(max_batch_size=2_048, max_tokens_per_batch=300_000, max_tokens_per_text=8_191)
    assert Cap.from_limits(limits) == OPENAI
    assert not Cap.from_limits(limits).paced


@pytest.mark.parametrize(
    ("inputs", "tokens", "least"), [(0, 0, 0), (1, 1, 1), (10, 100, 1), (11, 1, 2), (1, 100.5, 2), (31, 250, 4)]
)
def test_there_are_as_many_batches_as_the_fuller_limit_asks_for(inputs: int, tokens: float, least: int) -> None:
    assert Cap(10, 100).least_batches(inputs, tokens) == least


@given(st.lists(texts, max_size=60), st.integers(1, 30), st.integers(100, 30_000))
def test_what_is_fitting_is_the_longest_start_that_one_batch_holds(items: list[Text], inputs: int, tokens: int) -> None:
    cap = Cap(inputs, tokens)
    chosen = list(fitting_items(items, cap))
    assert chosen == items[: len(chosen)]
    assert len(chosen) <= 1 or fits(chosen, cap)
    assert len(chosen) == len(items) or not fits(items[: len(chosen) + 1], cap)
    assert chosen or not items


@pytest.mark.parametrize(("sizes", "chosen"), [([60, 40, 1], 2), ([60, 41], 1), ([101, 1], 1), ([1] * 9, 5), ([], 0)])
def test_a_limit_is_reached_and_not_passed(sizes: list[float], chosen: int) -> None:
    assert len(list(fitting_items([Text(size) for size in sizes], Cap(5, 100)))) == chosen


def test_fitting_takes_items_of_several_inputs_whole() -> None:
    items = [Text(1, inputs=2), Text(1, inputs=2), Text(1, inputs=2)]
    assert list(fitting_items(items, Cap(5, 100))) == items[:2]


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
        window.add([item])
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
    window.add([Text(40)] * 3)
    assert window.take(Cap(10, 100)) == [Text(40), Text(40)]
    assert (len(window), window.inputs, window.tokens) == (1, 1, 40)


@pytest.mark.parametrize(("cap", "batches", "full"), [(Cap(4, 999), 1, 4), (Cap(99, 40), 1, 4), (Cap(4, 999), 2, 8)])
def test_a_window_is_full_as_soon_as_either_limit_is_reached(cap: Cap, batches: int, full: int) -> None:
    window, sizes = Window[Text](), []
    while not window.is_full(cap, batches):
        window.add([Text(10)])
        sizes.append(len(window))
    assert sizes[-1] == full
    assert window.is_full(cap) == (full >= 4)


def test_one_of_so_many_even_batches_is_taken_from_texts_of_all_sizes() -> None:
    window = Window[Text]()
    window.add([Text(size) for size in (1, 6, 2, 5, 3, 4)])
    assert window.take(Cap(10, 100), 3) == [Text(6), Text(3)]
    window.add([Text(10)])
    assert window.take(Cap(10, 100), 2) == [Text(10), Text(4), Text(1)]
    assert (len(window), window.inputs, window.tokens) == (2, 2, 7)


def test_a_batch_is_as_full_as_can_be_where_no_number_is_asked_for() -> None:
    window = Window[Text]()
    window.add([Text(10)] * 7)
    assert len(window.take(Cap(3, 100))) == 3
    assert len(window.take(Cap(3, 100))) == 3
    assert window.take(Cap(3, 100)) == [Text(10)]
    assert (window.inputs, window.tokens) == (0, 0.0)


def test_what_does_not_fit_is_left_and_a_smaller_one_behind_it_goes() -> None:
    window = Window[Text]()
    window.add([Text(size) for size in (60, 50, 40)])
    assert window.take(Cap(10, 100)) == [Text(60), Text(40)]
    assert window.clear() == [Text(50)]
    assert (len(window), window.inputs, window.tokens) == (0, 0, 0.0)


def test_what_was_left_takes_its_place_by_size_again() -> None:
    window = Window[Text]()
    window.add([Text(size) for size in (90, 80, 15, 9, 4, 2)])
    assert window.take(Cap(10, 100), 2) == [Text(90), Text(4)]
    assert window.take(Cap(10, 100), 2) == [Text(80), Text(9)]
    assert window.take(Cap(10, 100), 1) == [Text(15), Text(2)]


def test_an_empty_window_holds_no_fraction_of_a_token() -> None:
    window = Window[Text]()
    window.add([Text(size) for size in (0.1, 0.2, 0.3)])
    assert len(window.take(Cap(10, 100))) == 3
    assert window.tokens == 0.0


def test_the_batches_of_a_pack_are_even() -> None:
    assert [len(batch) for batch in pack([Text(1)] * 15, Cap(10, 100))] == [8, 7]


def test_an_item_above_the_cap_goes_alone() -> None:
    assert pack([Text(10), Text(500), Text(10)], Cap(10, 100)) == [[Text(500)], [Text(10), Text(10)]]


@given(st.integers(1, 300), st.integers(1, 64), st.floats(0, 300_000), st.integers(0, 100))
def test_share_fills_waves_with_at_most_concurrency_more_requests(
    count: int, slots: int, tokens: float, taken: int
) -> None:
    shared = count_last_batches(count, tokens, slots, taken)
    assert count <= shared <= count + slots - 1
    assert shared == count or (taken + shared) % slots == 0 or shared == ceil(tokens / LEAST_SHARE_TOKENS)


def test_a_small_job_uses_all_slots_and_a_tiny_one_does_not() -> None:
    assert count_last_batches(1, 30_000, 8) == 8
    assert count_last_batches(1, 500, 8) == 1
    assert count_last_batches(1, 4_001, 8) == 3
    assert count_last_batches(8, 2_000_000, 8) == 8
    assert count_last_batches(3, 900_000, 1) == 3
    assert count_last_batches(9, 2_600_000, 8) == 16
    assert count_last_batches(6, 1_700_000, 5, taken=9) == 6
    assert count_last_batches(6, 1_700_000, 5, taken=10) == 10
    assert count_last_batches(1, 500, 8, taken=3) == 1


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


def test_a_tapered_batch_is_a_fourth_of_much_and_a_third_of_the_last_full_one() -> None:
    cap = Cap(2_048, 160_000, paced=True)
    assert taper(2, 160_001, cap, 8) == 4
    assert taper(1, 160_000, cap, 8) == 3
    assert taper(1, 10_001, cap, 8) == 3
    assert taper(1, 10_000, cap, 8) == 1
    assert taper(7, 1_000_000, cap, 8) == 7
    assert taper(1, 160_000, cap, 2) == 2


def test_a_paced_job_of_one_slot_sends_no_more_requests_than_it_must() -> None:
    assert taper(2, 400_000, Cap(2_048, 270_000, paced=True), 1) == 2


@given(st.lists(st.integers(), min_size=2))
def test_halves_lose_nothing(batch: list[int]) -> None:
    left, right = halves(batch)
    assert [*left, *right] == batch
    assert len(left) <= len(right) <= len(left) + 1
