"""What refusals teach, seen from the outside: rates in tokens a second, sizes in tokens."""

from __future__ import annotations

from math import inf

import pytest

from aembed.core.pacing._congestion import Congestion


def work(congestion: Congestion, begin: float, end: float, *, tokens: float = 50.0, every: float = 0.5) -> None:
    """Requests from just after `begin` to `end`; all are accepted."""
    for number in range(1, round((end - begin) / every) + 1):
        congestion.note_spent(begin + number * every, tokens)
        congestion.note_accepted(tokens, begin + number * every)


def taught() -> Congestion:
    """100 tokens a second were accepted for a minute, and then one request was refused."""
    congestion = Congestion()
    work(congestion, 0.0, 60.0)
    assert congestion.note_refused(50.0, 60.5, 60.5, inf)
    congestion.note_accepted(0.0, 60.5)
    return congestion


def spend(congestion: Congestion, requests: int, tokens: float) -> None:
    for number in range(requests):
        congestion.note_spent(100.0 + number, tokens)


def test_nothing_is_known_until_something_is_refused() -> None:
    congestion = Congestion()
    work(congestion, 0.0, 60.0)
    congestion.note_grown(1e9)
    assert (congestion.rate, congestion.max_batch_tokens) == (inf, inf)
    assert not congestion.is_too_large(1e9)


def test_the_pace_is_what_was_accepted() -> None:
    assert taught().rate == pytest.approx(100.0, rel=0.01)


def test_the_pace_grows_by_a_twentieth_in_eight_busy_seconds_and_in_sixty_when_it_is_sure() -> None:
    congestion = taught()
    before = congestion.rate
    spend(congestion, 16, 60.0)
    assert congestion.rate == pytest.approx(1.05 * before)
    congestion = taught()
    congestion.trust(None)
    spend(congestion, 16, 60.0)
    assert congestion.rate == pytest.approx(before, rel=0.001)
    spend(congestion, 104, 60.0)
    assert congestion.rate == pytest.approx(1.05 * before)


def test_few_requests_count_as_little_time_however_large_they_are() -> None:
    congestion = taught()
    before = congestion.rate
    spend(congestion, 4, 5_000.0)
    assert congestion.rate == pytest.approx(before * (1 + 0.05 * (2 / 8) ** 3), rel=1e-6)


def test_small_requests_count_as_the_time_that_they_take() -> None:
    congestion = taught()
    before = congestion.rate
    spend(congestion, 400, 1.0)
    assert congestion.rate == pytest.approx(before * (1 + 0.05 * (4 / 8) ** 3), rel=1e-3)
    congestion.note_grown(200.0)
    assert congestion.rate == pytest.approx(before * (1 + 0.05 * (6 / 8) ** 3), rel=1e-3)


def test_what_a_request_carries_more_counts_as_spent() -> None:
    congestion, other = taught(), taught()
    spend(congestion, 16, 50.0)
    spend(other, 16, 20.0)
    other.note_grown(480.0)
    assert other.rate == pytest.approx(congestion.rate, rel=0.01)
    other.note_grown(-480.0)
    assert other.rate < congestion.rate - 1.0


def test_the_pace_grows_threefold_in_a_minute_at_most() -> None:
    congestion = taught()
    before = congestion.rate
    spend(congestion, 118, 1e6)
    assert congestion.rate == pytest.approx(3 * before)
    spend(congestion, 4, 1e6)
    assert congestion.rate == pytest.approx(9 * before)


def test_a_large_request_at_a_pace_that_was_guessed_from_small_ones_is_no_overflow() -> None:
    congestion = Congestion()
    work(congestion, 0.0, 1.0, tokens=1.0)
    congestion.note_refused(1.0, 2.5, 2.5, inf)
    congestion.note_accepted(1.0, 2.6)
    before = congestion.rate
    assert before < 2.0
    congestion.note_spent(3.0, 300_000.0)
    assert before < congestion.rate < inf


def test_a_fair_share_of_a_known_limit_grows_as_its_own() -> None:
    """A fourth of 48,000 a minute is 200 a second: 5 % of that."""
    congestion = taught()
    congestion.trust(48_000)
    before = congestion.rate
    spend(congestion, 120, 1e6)
    assert congestion.rate == pytest.approx(before + 10.0)


def test_refusals_are_forgotten() -> None:
    congestion = taught()
    assert congestion.note_refused(50.0, 62.0, 62.0, congestion.rate)
    congestion.forget()
    congestion.note_accepted(50.0, 63.0)
    assert congestion.rate == inf


def test_refusals_until_the_next_acceptance_are_one_episode() -> None:
    congestion = Congestion()
    work(congestion, 0.0, 60.0)
    assert congestion.note_refused(50.0, 60.5, 60.7, inf)
    assert not congestion.note_refused(50.0, 60.6, 60.8, inf)
    congestion.note_accepted(50.0, 60.6)  # sent before the first refusal came back
    assert congestion.rate == inf
    congestion.note_accepted(50.0, 60.7)
    assert congestion.rate < inf
    assert not congestion.note_refused(50.0, 60.6, 61.1, congestion.rate)  # sent in the episode that is over
    assert congestion.note_refused(50.0, 60.7, 61.2, congestion.rate)


def test_a_size_that_was_never_accepted_is_halved_down_to_a_least_one() -> None:
    congestion = Congestion()
    congestion.note_refused(290_000, 1.0, 1.0, inf)
    assert congestion.max_batch_tokens == 145_000
    congestion.note_refused(145_001, 1.0, 1.0, inf)
    assert congestion.max_batch_tokens == 72_500.5
    congestion.note_refused(290_000, 1.0, 1.0, inf)
    assert congestion.max_batch_tokens == 72_500.5
    assert congestion.is_too_large(72_501)
    assert not congestion.is_too_large(72_500)
    congestion.note_refused(8_000, 1.0, 1.0, inf)
    assert congestion.max_batch_tokens == 4_000
    congestion.note_refused(7_999, 1.0, 1.0, inf)
    assert congestion.max_batch_tokens == 4_000
    assert not congestion.is_too_large(4_000)
    assert congestion.is_too_large(4_001)


def test_a_size_that_is_accepted_may_grow_by_two_percent() -> None:
    congestion = Congestion()
    congestion.note_refused(200_000, 1.0, 1.0, inf)
    congestion.note_accepted(49_999, 0.0)
    assert congestion.max_batch_tokens == 100_000
    congestion.note_accepted(50_000, 0.0)
    assert congestion.max_batch_tokens == pytest.approx(102_000)


def test_a_size_that_was_accepted_is_refused_for_a_minute_before_it_is_too_large() -> None:
    congestion = Congestion()
    congestion.note_accepted(50_000, 0.0)
    congestion.note_refused(50_000, 1.0, 1.0, inf)
    congestion.note_refused(50_000, 61.0, 61.0, inf)
    assert congestion.max_batch_tokens == inf
    congestion.note_refused(50_000, 61.1, 61.1, inf)
    assert congestion.max_batch_tokens == 25_000


def test_batches_are_small_parts_of_the_pace() -> None:
    congestion = Congestion()
    work(congestion, 0.0, 60.0, tokens=50_000.0)
    congestion.note_refused(50_000, 60.5, 60.5, inf)
    congestion.note_accepted(0.0, 60.5)
    rate = congestion.rate
    assert rate == pytest.approx(100_000, rel=0.01)
    assert congestion.max_batch_tokens == pytest.approx(60.0 * rate * 0.004)
    assert congestion.is_too_large(60.0 * rate * 0.0301)
    assert not congestion.is_too_large(60.0 * rate * 0.0299)
    assert taught().max_batch_tokens == 4_000


def test_a_settled_pace_is_cut_by_three_percent_at_least() -> None:
    congestion = Congestion()
    work(congestion, 0.0, 150.0)
    congestion.note_refused(50.0, 150.5, 150.5, 60.0)
    congestion.note_accepted(50.0, 150.5)
    assert congestion.rate == pytest.approx(0.97 * 60.0)


@pytest.mark.parametrize("begin", [0.0, 1e5])
def test_in_the_first_two_minutes_what_was_accepted_is_the_pace(begin: float) -> None:
    congestion = Congestion()
    work(congestion, begin, begin + 110.0)
    congestion.note_refused(50.0, begin + 110.5, begin + 110.5, 60.0)
    congestion.note_accepted(50.0, begin + 110.5)
    assert congestion.rate == pytest.approx(100.0, rel=0.01)


def test_two_measurements_that_agree_make_it_sure() -> None:
    congestion, before = taught(), taught()
    for each, tokens in ((congestion, 46.0), (before, 30.0)):
        work(each, 61.0, 121.0, tokens=tokens)
        each.note_refused(50.0, 121.5, 121.5, each.rate)
        each.note_accepted(0.0, 121.5)
        begin = each.rate
        assert begin == pytest.approx(2 * tokens, rel=0.02)
        spend(each, 16, 50.0)
        assert (each.rate == pytest.approx(begin, rel=0.001)) == (each is congestion)


def test_what_was_accepted_since_the_last_long_refusal_is_what_is_sustained() -> None:
    """6,000 tokens in each window of 100 seconds, all of them in its first minute."""
    congestion = Congestion()
    for begin in (0.0, 100.0):
        work(congestion, begin, begin + 60.0)
        congestion.note_refused(50.0, begin + 60.5, begin + 60.5, inf)
        congestion.note_accepted(0.0, begin + 100.0)
    assert congestion.rate == pytest.approx(60.0, rel=0.01)


def test_of_two_windows_of_a_minute_none_holds_more_than_both() -> None:
    """A pause before it makes the cycle long: the minute before the refusal says more."""
    congestion = Congestion()
    work(congestion, 0.0, 60.0)
    congestion.note_refused(50.0, 60.5, 60.5, inf)
    congestion.note_accepted(0.0, 75.0)
    work(congestion, 105.0, 165.0)
    congestion.note_refused(50.0, 165.0, 165.0, inf)
    congestion.note_accepted(0.0, 190.0)
    assert congestion.rate == pytest.approx(6_000 / 115, rel=0.01)


def test_a_short_refusal_is_measured_over_twenty_times_its_length() -> None:
    congestion = Congestion()
    work(congestion, 0.0, 40.0, tokens=10.0)
    work(congestion, 40.0, 60.0, tokens=100.0)
    congestion.note_refused(50.0, 60.0, 60.0, inf)
    congestion.note_accepted(0.0, 61.0)
    assert congestion.rate == pytest.approx(100.0 * 38 / 20, rel=0.01)


@pytest.mark.parametrize("begin", [0.0, 1e5])
def test_a_young_job_is_measured_over_its_own_time(begin: float) -> None:
    congestion = Congestion()
    work(congestion, begin, begin + 5.0)
    congestion.note_refused(50.0, begin + 5.0, begin + 5.0, inf)
    congestion.note_accepted(0.0, begin + 5.5)
    assert congestion.rate == pytest.approx(100.0, rel=0.11)


@pytest.mark.parametrize(("every", "tokens", "pace", "rate"), [(4, 45, 50, 12), (5, 60, 50, 40), (5, 60, inf, 12)])
def test_few_requests_cut_the_pace_by_a_fifth_at_most(every: int, tokens: float, pace: float, rate: float) -> None:
    """Five in the fifteen seconds that are measured are enough."""
    congestion, end = Congestion(), 28.0 if every == 4 else 30.0
    work(congestion, 0.0, end, tokens=tokens, every=every)
    congestion.note_refused(50.0, end + 0.5, end + 0.5, pace)
    congestion.note_accepted(0.0, end + 0.5)
    assert congestion.rate == pytest.approx(rate)


def test_a_refusal_of_ten_seconds_is_long() -> None:
    congestion = Congestion()
    for begin in (0.0, 60.0):
        work(congestion, begin, begin + 20.0)
        congestion.note_refused(50.0, begin + 50.0, begin + 50.0, inf)
        congestion.note_accepted(0.0, begin + 60.0)
    assert congestion.rate == pytest.approx(2_000 / 60, rel=0.01)
