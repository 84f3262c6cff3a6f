from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.deadlines import Deadlines


def seen(deadlines: Deadlines, tokens: float, seconds: float, times: int = 10) -> Deadlines:
    for _ in range(times):
        deadlines.observe(tokens, seconds)
    return deadlines


def test_the_timeout_holds_until_replies_were_seen() -> None:
    assert seen(Deadlines(60.0), 1_000, 0.1, times=4).deadline_of(1_000) == 60.0


def test_five_replies_are_enough_and_the_first_miss_doubles_their_deadline() -> None:
    deadlines = seen(Deadlines(60.0), 1_000, 1.0, times=5)
    assert deadlines.deadline_of(1_000) == 4.0
    assert repr(Deadlines(60.0)) == "<Deadlines 0 replies, slack 1, at most 60 s>"


def test_a_hung_call_costs_seconds_where_its_neighbours_take_one() -> None:
    assert seen(Deadlines(60.0), 30_000, 1.0).deadline_of(30_000) == pytest.approx(4.0)


def test_never_below_three_seconds_and_never_above_the_timeout() -> None:
    assert seen(Deadlines(60.0), 1_000, 0.1).deadline_of(1_000) == 3.0
    assert seen(Deadlines(60.0), 1_000, 40.0).deadline_of(1_000) == 60.0
    assert seen(Deadlines(1.0), 1_000, 0.1).deadline_of(1_000) == 1.0


def test_a16_what_was_late_lately_is_waited_for_again_whatever_its_size() -> None:
    deadlines = seen(Deadlines(60.0), 1_000, 0.1, times=20)
    deadlines.observe(50_000, 6.0)
    assert deadlines.deadline_of(10) == 3.0
    assert 6.0 < deadlines.patient_deadline_of(10) < 8.0
    assert seen(deadlines, 1_000, 0.1, times=100).patient_deadline_of(10) == 3.0


def test_a_larger_request_may_take_longer_in_proportion() -> None:
    deadlines = seen(Deadlines(600.0), 1_000, 1.0)
    assert deadlines.deadline_of(100) == pytest.approx(4.0)
    assert 4.0 * 100 <= deadlines.deadline_of(100_000) <= 4.0 * 200
    assert deadlines.deadline_of(2_000) == pytest.approx(8.0)
    assert deadlines.deadline_of(4_000) == pytest.approx(16.0)


@given(seed=st.integers(0, 1_000))
def test_no_reply_of_a_healthy_server_is_late(seed: int) -> None:
    deadlines, random = Deadlines(60.0), Random(seed)
    for _ in range(300):
        tokens = random.choice([50, 500, 5_000, 30_000, 290_000])
        seconds = (0.078 + 22e-6 * tokens) * random.uniform(0.8, 1.5)
        assert seconds <= deadlines.deadline_of(tokens)
        deadlines.observe(tokens, seconds)


def test_p13_a_brown_out_is_no_storm_of_timeouts() -> None:
    deadlines, false_timeouts = seen(Deadlines(60.0), 5_000, 0.3, times=50), 0
    for _ in range(20):
        batch = [deadlines.deadline_of(5_000) for _ in range(8)]
        for deadline in batch:
            if deadline < 6.0:
                false_timeouts += 1
                deadlines.note_missed(5_000, deadline)
            else:
                deadlines.observe(5_000, 6.0)
    assert false_timeouts <= 8


def test_single_hung_calls_do_not_loosen_the_deadline() -> None:
    deadlines = seen(Deadlines(60.0), 30_000, 1.0)
    for _ in range(50):
        deadlines.note_missed(30_000, deadlines.deadline_of(30_000))
        seen(deadlines, 30_000, 1.0, times=9)
    assert deadlines.deadline_of(30_000) == pytest.approx(4.0)


def test_repr_shows_counts() -> None:
    assert repr(seen(Deadlines(60.0), 1, 1.0)) == "<Deadlines 10 replies, slack 1, at most 60 s>"


def test_a_deadline_that_was_missed_is_doubled_once_and_comes_back_by_halves() -> None:
    deadlines = seen(Deadlines(60.0), 30_000, 1.0)
    first = deadlines.deadline_of(30_000)
    for _ in range(3):
        deadlines.note_missed(30_000, first)
    assert deadlines.deadline_of(30_000) == pytest.approx(2 * first)
    deadlines.note_missed(30_000, 2 * first)
    assert deadlines.deadline_of(30_000) == pytest.approx(4 * first)
    deadlines.observe(30_000, 1.0)
    assert deadlines.deadline_of(30_000) == pytest.approx(2 * first)


def test_the_slack_never_exceeds_the_timeout() -> None:
    deadlines = seen(Deadlines(8.0), 30_000, 1.0)
    for _ in range(9):
        deadlines.note_missed(30_000, 8.0)
    assert deadlines.deadline_of(30_000) == 8.0
    assert "slack 8," in repr(deadlines)


def test_a_faster_reply_lowers_the_estimate_slowly() -> None:
    deadlines = seen(Deadlines(60.0), 30_000, 2.0)
    deadlines.observe(30_000, 1.0)
    assert 7.8 <= deadlines.deadline_of(30_000) < 8.0


def test_a16_what_may_be_cut_is_a_fiftieth_of_what_was_answered_until_something_hung() -> None:
    deadlines = seen(Deadlines(60.0), 1_000, 0.1, times=100)
    assert deadlines.tokens_that_may_be_cut() == pytest.approx(2_000)
    assert deadlines.tokens_that_may_be_cut(to_come=1_000_000) == pytest.approx(12_000)
    deadlines.note_missed(1_500, 3.0)
    assert deadlines.tokens_that_may_be_cut() == pytest.approx(500)
    deadlines.note_missed(30_000, 60.0)
    assert deadlines.tokens_that_may_be_cut() == float("inf")
