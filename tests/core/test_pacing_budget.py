"""One limit of a minute: what is counted, what the headers say of it, and what part of it is ours."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.pacing._budget import RateBudget
from aembed.core.pacing._minute import Minute

LIMIT, SIZE = 60_000, 6_000


def answered(budget: RateBudget, remaining: int, now: float, *, cost: float = 100.0, size: float = SIZE) -> None:
    """By a bucket of `size` that fills at a thousand units a second."""
    budget.observe(LIMIT, remaining, (size - remaining) * 60.0 / LIMIT, cost, now)


def bucket(remaining: int = SIZE - 100) -> RateBudget:
    budget = RateBudget(None)
    for number in range(5):
        answered(budget, remaining, 2.0 * number)
    return budget


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=60), st.integers(0, 240))
def test_a_minute_sums_what_came_in_its_sixty_seconds(steps: list[tuple[int, int]], halves: int) -> None:
    minute, at, added = Minute(), 0, []
    for step, amount in steps:
        at += step
        minute.add(at / 2, amount)
        added.append((at, amount))
    now = at + min(halves, 130)
    assert minute.total(now / 2) == sum(amount for at, amount in added if now - 120 < at <= now)
    assert minute.total(now / 2, 30.0) == sum(amount for at, amount in added if now - 60 < at <= now)


def test_a_minute_is_no_longer_than_sixty_seconds() -> None:
    minute = Minute()
    minute.add(10.0, 5)
    minute.add(10.2, 2)
    assert minute.total(69.9) == 7
    assert minute.total(70.0) == 0
    assert minute.total(70.0, 61.0) == 7
    assert minute.total(9.9) == 0


def test_the_lower_of_two_limits_counts_and_one_of_one_is_a_limit() -> None:
    budget = RateBudget(100.0)
    assert (budget.limit, RateBudget(None).limit) == (100.0, None)
    budget.observe(1, None, None, 0.0, 0.0)
    assert budget.limit == 1
    budget.observe(500, None, None, 0.0, 0.0)
    assert budget.limit == 100.0


def test_where_no_limit_is_known_nothing_is_held_up() -> None:
    budget = RateBudget(None)
    assert (budget.rate, budget.max_cost, budget.startable_units(0.0), budget.share) == (inf, inf, inf, 1.0)
    budget.book_cost(5.0, 1e9)
    assert budget.due <= 1.0
    assert budget.spent_units(5.0) == 1e9


def test_a_cost_takes_its_time_at_the_pace_and_a_late_one_catches_up_a_tenth_of_a_second() -> None:
    budget = RateBudget(LIMIT)
    assert budget.rate == pytest.approx(970.0)
    charge = budget.book_cost(10.0, 970.0)
    assert charge.seconds == pytest.approx(1.0)
    assert budget.due == pytest.approx(10.9)
    assert budget.startable_units(10.0) == 0.0
    assert budget.startable_units(20.0) == pytest.approx(97.0)
    assert budget.startable_units(20.0, 3.0) == pytest.approx(3.1 * 970.0)


def test_what_is_refunded_leaves_no_trace() -> None:
    budget = RateBudget(LIMIT)
    charge = budget.book_cost(0.0, 970.0)
    last = budget.book_cost(30.0, 970.0)
    assert budget.spent_units(30.0) == 1_940.0
    budget.refund(30.0, 970.0, last)
    assert (budget.due, budget.spent_units(30.0)) == (pytest.approx(0.9), 970.0)
    later = budget.book_cost(1.0, 970.0)
    budget.refund(0.0, 970.0, charge)
    assert budget.due == pytest.approx(later.after - 1.0)
    assert budget.spent_units(30.0) == 970.0


def test_a_bucket_is_known_by_five_replies() -> None:
    budget = RateBudget(None)
    for number, remaining in enumerate((5_900, 5_000, 4_000, 5_500)):
        answered(budget, remaining, 2.0 * number)
        assert not budget.is_bucket
    answered(budget, 5_800, 8.0)
    assert budget.is_bucket
    answered(budget, 5_800, 10.0, size=2 * SIZE)
    assert not budget.is_bucket


@pytest.mark.parametrize("cost", [0.0, -1.0])
def test_replies_that_took_nothing_tell_of_no_bucket(cost: float) -> None:
    budget = RateBudget(None)
    for number in range(20):
        answered(budget, 5_900, 2.0 * number, cost=cost)
    assert not budget.is_bucket


def test_a_request_that_cost_one_tells_of_a_bucket() -> None:
    budget = RateBudget(None)
    for number in range(5):
        answered(budget, 5_900, 2.0 * number, cost=1.0)
    assert budget.is_bucket


@pytest.mark.parametrize(("apart", "known"), [(2.0, True), (1.9, False)])
def test_replies_that_come_close_together_tell_little(apart: float, known: bool) -> None:
    budget = RateBudget(None)
    for number in range(5):
        answered(budget, 5_900, apart * number)
    assert budget.is_bucket is known


@pytest.mark.parametrize(("remaining", "known"), [(LIMIT // 200, True), (LIMIT // 200 - 1, False)])
def test_what_is_left_of_an_empty_bucket_tells_nothing_of_its_size(remaining: int, known: bool) -> None:
    budget = RateBudget(None)
    for number in range(5):
        answered(budget, remaining, 2.0 * number)
    assert budget.is_bucket is known


def test_a_reply_that_names_no_reset_tells_of_no_bucket() -> None:
    budget = RateBudget(None)
    for number in range(20):
        budget.observe(LIMIT, 5_900, None, 100.0, 2.0 * number)
    assert not budget.is_bucket


@pytest.mark.parametrize(("drift", "known"), [(1.01, True), (1.03, False)])
def test_the_size_of_a_bucket_is_the_same_within_two_percent(drift: float, known: bool) -> None:
    budget = RateBudget(None)
    for number in range(8):
        answered(budget, 5_000, 2.0 * number, size=SIZE * drift ** (number % 2))
    assert budget.is_bucket is known


def test_no_bucket_holds_more_than_its_minute() -> None:
    """A window counts down to the end of its minute: the sum is more than the limit."""
    budget = RateBudget(None)
    for number in range(8):
        answered(budget, 50_000, 2.0 * number, size=LIMIT * 1.1)
    assert not budget.is_bucket


def test_our_part_of_a_bucket_that_is_full_is_all_of_it_and_halves_five_times_till_it_is_empty() -> None:
    budget = bucket()
    assert budget.share == 1.0
    assert budget.max_cost == pytest.approx(0.027 * LIMIT)
    answered(budget, 2_000, 20.0)
    left = 1.0 + 0.5 * (2_100 / SIZE - 1.0)
    assert budget.share == pytest.approx(2.0 ** (-5.0 * (0.9 - left) / 0.9))
    assert budget.rate == pytest.approx(970.0 * budget.share)
    assert budget.max_cost == pytest.approx(0.01 * LIMIT * budget.share)
    for number in range(60):
        answered(budget, 0, 22.0 + 2.0 * number, cost=0.0)
    assert budget.share == pytest.approx(1 / 32)


def test_a_bucket_is_never_more_than_full() -> None:
    budget, other = bucket(), bucket()
    answered(other, SIZE, 20.0, cost=SIZE)
    for each in (budget, other):
        answered(each, 2_000, 30.0)
    assert budget.share == other.share


def test_remaining_counts_that_are_no_counts_say_nothing() -> None:
    budget, other = bucket(), bucket()
    for remaining in (None, -1):
        other.observe(LIMIT, remaining, 1.0, 100.0, 20.0)
    for each in (budget, other):
        answered(each, 2_000, 30.0)
    assert budget.share == other.share


def test_a_bucket_grows_and_shrinks_with_its_limit() -> None:
    budget = bucket()
    budget.observe(LIMIT // 2, SIZE // 2 - 100, 0.2, 100.0, 9.0)
    assert budget.is_bucket
    assert budget.share == 1.0
    budget.observe(LIMIT // 2, SIZE // 4 - 100, None, 100.0, 9.5)
    assert budget.share == pytest.approx(2.0 ** (-5.0 * (0.9 - 0.75) / 0.9))


def test_a_refusal_is_explained_for_a_minute_after_the_limit_changed() -> None:
    budget = RateBudget(None)
    budget.observe(LIMIT, None, None, 0.0, 0.0)
    assert not budget.explains(None, 100.0, 1.0)
    budget.observe(LIMIT // 2, None, None, 0.0, 10.0)
    assert budget.explains(50_000, 100.0, 69.9)
    assert not budget.explains(50_000, 100.0, 70.0)


def test_a_refusal_is_explained_by_a_bucket_that_held_too_little() -> None:
    budget = bucket()
    assert budget.explains(None, 100.0, 100.0)
    assert budget.explains(99, 100.0, 100.0)
    assert not budget.explains(100, 100.0, 100.0)
    assert not RateBudget(LIMIT).explains(99, 100.0, 100.0)
