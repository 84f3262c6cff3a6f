"""How many requests at a time are believed to be taken, after which answers. Level n: sent as the n-th in flight."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.pacing._in_flight import InFlight, Suspicion

NOTHING, FREQUENT, WINDOW = Suspicion.NOTHING, Suspicion.FREQUENT, Suspicion.WINDOW


def accept(
    flight: InFlight,
    level: int,
    at: float = 0.0,
    *,
    times: int = 1,
    tokens: float = 100.0,
    in_flight: int = 0,
    seconds: float = 0.0,
) -> Suspicion:
    """Sent as one of `level`, answered when `in_flight` were left, as many if nothing else is said."""
    suspicion = NOTHING
    for _ in range(times):
        sent = flight.note_sent(level, tokens, at)
        suspicion = flight.note_accepted(sent, in_flight or level, at + seconds)
        flight.note_ended(sent)
    return suspicion


def refuse(
    flight: InFlight,
    level: int,
    at: float = 0.0,
    *,
    times: int = 1,
    tokens: float = 100.0,
    hint: float | None = None,
    in_flight: int = 0,
    seconds: float = 0.0,
) -> Suspicion:
    suspicion = NOTHING
    for _ in range(times):
        sent = flight.note_sent(level, tokens, at)
        suspicion = flight.note_refused(sent, in_flight or level, at + seconds, hint)
        flight.note_ended(sent)
    return suspicion


def until_tried(flight: InFlight, level: int) -> int:
    """Acceptances at the limit until that level may be tried."""
    number = 0
    while flight.allowed < level:
        accept(flight, flight.limit)
        number += 1
    return number


# What is believed


def test_all_are_allowed_while_nothing_is_refused() -> None:
    flight = InFlight(8)
    accept(flight, 8, times=20)
    assert (flight.limit, flight.allowed, flight.is_limited) == (8, 8, False)
    assert (flight.frequency.share, flight.doubted_since, flight.first_refused_at) == (0.0, None, inf)


def test_from_a_first_number_it_climbs_in_growing_steps_to_the_most() -> None:
    flight, allowed = InFlight(64, 8), []
    while flight.limit < 64:
        allowed.append(flight.allowed)
        accept(flight, flight.allowed)
    assert allowed == [9, 10, 12, 15, 19, 24, 30, 37, 45, 54, 64]
    assert flight.allowed == 64
    assert not flight.is_limited


@pytest.mark.parametrize(("most", "first", "limit"), [(4, 8, 4), (64, 1, 1), (8, None, 8), (1, None, 1)])
def test_the_first_number_is_no_more_than_the_most(most: int, first: int | None, limit: int) -> None:
    assert InFlight(most, first).limit == limit


def test_from_one_it_climbs_by_half_of_itself_at_the_most() -> None:
    flight, allowed = InFlight(64, 1), []
    for _ in range(6):
        allowed.append(flight.allowed)
        accept(flight, flight.allowed)
    assert allowed == [2, 3, 5, 8, 12, 17]


@pytest.mark.parametrize(("level", "limit"), [(8, 7), (5, 4), (2, 1), (1, 1)])
def test_a_level_that_was_never_accepted_and_is_refused_is_not_used(level: int, limit: int) -> None:
    flight = InFlight(8)
    assert refuse(flight, level, 3.0) is NOTHING
    assert (flight.limit, flight.allowed) == (limit, limit)
    assert flight.is_limited is True
    assert (flight.doubted_since, flight.first_refused_at) == (3.0, 3.0)


@pytest.mark.parametrize(("accepted", "refused"), [(0, 1), (1, 2), (2, 2), (3, 3), (50, 3)])
def test_a_level_that_was_accepted_is_given_up_after_more_refusals(accepted: int, refused: int) -> None:
    flight = InFlight(8)
    accept(flight, 8, times=accepted)
    refuse(flight, 8, times=refused - 1)
    assert flight.limit == 8
    refuse(flight, 8)
    assert flight.limit == 7


def test_an_acceptance_speaks_for_all_levels_below_it_and_for_none_above() -> None:
    flight = InFlight(8)
    accept(flight, 5, times=3)
    refuse(flight, 6)
    assert flight.limit == 5
    flight = InFlight(8)
    accept(flight, 6, times=3)
    refuse(flight, 5)
    assert flight.limit == 6


def test_a_refusal_speaks_against_all_levels_above_it() -> None:
    flight = InFlight(8)
    accept(flight, 4)
    accept(flight, 8)
    refuse(flight, 6, times=2)
    assert flight.limit == 5


def test_the_levels_below_one_that_was_accepted_often_are_not_given_up_by_one_refusal_each() -> None:
    flight = InFlight(8)
    accept(flight, 8, times=3)
    for level in (3, 4, 5):
        refuse(flight, level)
        accept(flight, 8)
    assert flight.limit == 8


def test_in_a_burst_that_is_refused_in_part_the_number_that_was_left_counts() -> None:
    """Eight are sent at once to a service that takes three: which of them those are is an accident."""
    flight = InFlight(8)
    burst = [flight.note_sent(level, 100.0, 0.0) for level in range(1, 9)]
    for in_flight, sent in zip((8, 7, 6, 5, 4), burst[:5], strict=True):
        assert flight.note_refused(sent, in_flight, 0.02, None) is NOTHING
        flight.note_ended(sent)
    assert (flight.limit, flight.allowed) == (3, 3)
    for in_flight, sent in zip((3, 2, 1), reversed(burst[5:]), strict=True):
        flight.note_accepted(sent, in_flight, 0.0)
        flight.note_ended(sent)
    assert (flight.limit, flight.allowed) == (3, 3)
    refuse(flight, 4)
    assert flight.limit == 3


def test_of_what_was_sent_after_the_last_refusal_the_number_at_its_sending_counts() -> None:
    flight = InFlight(8)
    refuse(flight, 8, in_flight=5)
    assert flight.limit == 7
    flight = InFlight(8)
    refuse(flight, 5, in_flight=8)
    assert flight.limit == 7


def test_a_refusal_of_more_than_the_most_is_one_of_the_most() -> None:
    flight = InFlight(4)
    refuse(flight, 6, in_flight=9)
    assert flight.limit == 3
    assert flight.note_sent(9, 100.0, 0.0).level == 4


# Tries


def test_a15_a_level_is_tried_again_after_12_24_48_and_then_64_acceptances() -> None:
    flight, waits = InFlight(8), []
    for _ in range(6):
        refuse(flight, 8)
        waits.append(until_tried(flight, 8))
        assert flight.limit == 7
    assert waits == [12, 24, 48, 64, 64, 64]


def test_each_level_has_its_own_count_of_tries() -> None:
    flight = InFlight(8)
    for _ in range(2):
        refuse(flight, 8)
        until_tried(flight, 8)
    refuse(flight, 7, times=3)
    assert flight.limit == 6
    accept(flight, 3)
    assert until_tried(flight, 7) == 11


def test_one_request_at_a_time_tries_a_level() -> None:
    flight = InFlight(8)
    refuse(flight, 8)
    until_tried(flight, 8)
    trying = flight.note_sent(8, 100.0, 0.0)
    assert flight.is_try(trying)
    assert flight.allowed == 7
    other = flight.note_sent(7, 100.0, 0.0)
    assert not flight.is_try(other)
    flight.note_ended(other)
    assert flight.allowed == 7
    flight.note_ended(trying)
    assert flight.allowed == 8


def test_what_is_sent_below_the_level_that_is_allowed_is_no_try_of_it() -> None:
    flight = InFlight(64, 8)
    accept(flight, 9)
    accept(flight, 10)
    assert flight.allowed == 12
    flight.note_sent(11, 100.0, 0.0)
    assert flight.allowed == 12
    flight.note_sent(12, 100.0, 0.0)
    assert flight.allowed == 10


def test_a_try_that_is_accepted_is_believed_and_the_next_is_tried_at_once() -> None:
    flight = InFlight(8)
    refuse(flight, 6)
    assert until_tried(flight, 6) == 12
    accept(flight, 6)
    assert (flight.limit, flight.allowed, flight.is_limited) == (6, 7, True)
    accept(flight, 7)
    assert (flight.limit, flight.allowed) == (7, 8)
    accept(flight, 8)
    assert (flight.limit, flight.allowed, flight.is_limited) == (8, 8, False)


def test_a15_a_service_that_takes_more_than_before_is_followed_in_growing_steps() -> None:
    """What was refused twice needs two acceptances, until two levels in a row were taken."""
    flight, tries = InFlight(16), []
    refuse(flight, 4)
    until_tried(flight, 4)
    refuse(flight, 4)
    until_tried(flight, 4)
    while flight.limit < 16:
        tries.append(flight.allowed)
        accept(flight, flight.allowed)
    assert tries == [4, 4, 5, 5, 7, 10, 14, 16]


def test_after_a_refusal_the_steps_begin_with_one_again() -> None:
    flight = InFlight(64, 8)
    for _ in range(4):
        accept(flight, flight.allowed)
    assert (flight.limit, flight.allowed) == (15, 19)
    refuse(flight, 19)
    assert (flight.limit, flight.allowed, flight.is_limited) == (15, 15, False)
    assert until_tried(flight, 16) == 12
    assert flight.allowed == 16


def test_a_level_that_was_never_tried_is_not_limited() -> None:
    flight = InFlight(64, 8)
    refuse(flight, 20)
    assert (flight.limit, flight.is_limited) == (8, False)


# Doubt


def test_a15_each_test_that_is_refused_is_followed_by_one_with_half_as_many_in_flight() -> None:
    flight, levels = InFlight(32), []
    for _ in range(5):
        levels.append(flight.allowed)
        suspicion = refuse(flight, flight.allowed)
    assert levels == [32, 31, 15, 3, 1]
    assert suspicion is WINDOW


def test_a_window_is_suspected_only_of_what_is_refused_alone_three_times() -> None:
    flight = InFlight(8)
    assert [refuse(flight, 1) for _ in range(3)] == [NOTHING, NOTHING, WINDOW]
    flight = InFlight(8)
    assert WINDOW not in [refuse(flight, 1, in_flight=2) for _ in range(9)]
    flight = InFlight(8)
    assert WINDOW not in [refuse(flight, 2, in_flight=1) for _ in range(9)]
    flight = InFlight(8)
    refuse(flight, 8)
    refuse(flight, 2)
    assert refuse(flight, 1) is WINDOW


def test_an_acceptance_begins_the_row_again() -> None:
    flight = InFlight(8)
    refuse(flight, 1, times=2)
    accept(flight, 1)
    assert refuse(flight, 1, times=2) is NOTHING


@pytest.mark.parametrize(("chance", "row"), [(0.02, 3), (0.09, 3), (0.2, 5), (0.5, 10), (0.9, 10)])
def test_where_chance_refuses_often_more_refusals_in_a_row_are_no_accident(chance: float, row: int) -> None:
    flight = InFlight(8)
    flight.blame_chance(chance)
    assert [refuse(flight, 1) for _ in range(row)] == [NOTHING] * (row - 1) + [WINDOW]


@pytest.mark.parametrize(("chance", "row"), [(0.02, 2), (0.2, 3), (0.5, 7)])
def test_where_chance_refuses_often_more_refusals_in_a_row_send_fewer(chance: float, row: int) -> None:
    """Below 1 %: 0.02 ** 2, 0.2 ** 3, 0.5 ** 7."""
    flight = InFlight(64)
    flight.blame_chance(chance)
    accept(flight, 64, times=3)
    refuse(flight, 60, times=row - 1)
    assert flight.allowed == flight.limit > 32
    refuse(flight, 60 if flight.limit >= 60 else flight.limit)
    assert flight.allowed == flight.limit // 2


def test_a_refusal_above_the_level_that_is_tested_sends_no_fewer() -> None:
    flight = InFlight(8)
    refuse(flight, 5)
    refuse(flight, 7, times=4)
    assert (flight.limit, flight.allowed) == (4, 4)


def test_what_was_sent_before_the_refusal_answers_nothing() -> None:
    flight = InFlight(8)
    before = [flight.note_sent(level, 100.0, 0.0) for level in range(1, 9)]
    flight.note_refused(before[7], 8, 0.1, None)
    flight.note_refused(before[6], 7, 0.1, None)
    flight.note_accepted(before[0], 6, 1.0)
    assert flight.doubted_since == 0.1
    assert flight.allowed == 6
    accept(flight, 2, 1.0)
    assert flight.doubted_since is None


@pytest.mark.parametrize(("tokens", "answered"), [(1.0, False), (79.9, False), (80.0, True), (500.0, True)])
def test_only_a_request_of_about_the_size_is_a_test(tokens: float, answered: bool) -> None:
    flight = InFlight(8)
    refuse(flight, 8, tokens=100.0)
    accept(flight, 7, tokens=tokens)
    assert (flight.doubted_since is None) is answered


def test_the_smallest_that_was_refused_is_the_size_of_the_test() -> None:
    flight = InFlight(8)
    refuse(flight, 8, tokens=100.0)
    refuse(flight, 7, tokens=40.0)
    refuse(flight, 3, tokens=100.0)
    accept(flight, 1, tokens=31.9)
    assert flight.doubted_since is not None
    accept(flight, 1, tokens=32.0)
    assert flight.doubted_since is None


@pytest.mark.parametrize(("at", "suspicion"), [(5.9, NOTHING), (6.0, WINDOW), (30.0, WINDOW)])
def test_where_nothing_was_accepted_until_the_hint_was_over_it_is_a_window(at: float, suspicion: Suspicion) -> None:
    flight = InFlight(8)
    refuse(flight, 8, 0.0, hint=6.0)
    refuse(flight, 7, 1.0, hint=1.0)
    assert accept(flight, 3, at) is suspicion
    assert flight.doubted_since is None


def test_the_hint_that_ends_last_counts() -> None:
    flight = InFlight(8)
    refuse(flight, 8, 0.0, hint=1.0)
    refuse(flight, 7, 1.0, hint=6.0)
    assert accept(flight, 3, 6.9) is NOTHING
    flight = InFlight(8)
    refuse(flight, 8, 0.0)
    refuse(flight, 7, 1.0, hint=6.0)
    assert accept(flight, 3, 7.0) is WINDOW


def test_a_hint_that_one_request_was_told_makes_no_window() -> None:
    """There was no test between the refusal and the acceptance."""
    flight = InFlight(8)
    refuse(flight, 8, 0.0, hint=6.0)
    assert accept(flight, 7, 10.0) is NOTHING


def test_without_a_hint_time_makes_no_window() -> None:
    flight = InFlight(8)
    refuse(flight, 8, 0.0)
    refuse(flight, 7, 1.0)
    assert accept(flight, 3, 1_000.0) is NOTHING


@pytest.mark.parametrize(("later", "since"), [(60.0, 1.0), (60.5, 61.5)])
def test_a_doubt_that_nothing_answers_is_dropped_after_a_minute(later: float, since: float) -> None:
    flight = InFlight(8)
    refuse(flight, 1, 1.0)
    refuse(flight, 1, 1.0 + later)
    assert flight.doubted_since == since


# What is under way


@pytest.mark.parametrize(("sent_at", "survives"), [(9.0, False), (8.75, True), (0.0, True)])
def test_what_is_under_way_for_twice_as_long_as_a_refusal_takes_was_accepted(sent_at: float, survives: bool) -> None:
    """The refusal takes half a second, of which a reply may take any number."""
    flight = InFlight(8)
    refuse(flight, 8, 0.0)
    flight.note_sent(1, 100.0, sent_at)
    refuse(flight, 7, 9.5, seconds=0.5)
    assert flight.doubted_since == (10.0 if survives else 0.0)
    assert flight.allowed == (6 if survives else 3)


def test_a15_a_level_that_is_tried_again_is_taken_before_its_reply_and_the_next_one_tried() -> None:
    flight = InFlight(8)
    refuse(flight, 5, 0.0, seconds=0.5)
    accept(flight, 4, times=30)
    assert (flight.limit, flight.allowed) == (4, 5)
    assert flight.settles_at == inf
    tried = flight.note_sent(5, 100.0, 100.0)
    assert (flight.allowed, flight.settles_at) == (4, 101.0)
    flight.settle(101.0)
    assert flight.limit == 4
    flight.settle(101.01)
    assert flight.settles_at == inf
    assert (flight.limit, flight.allowed) == (5, 6)
    flight.note_accepted(tried, 5, 109.0)
    assert (flight.limit, flight.allowed) == (5, 6)


def test_what_survives_a_refusal_speaks_for_its_level_once() -> None:
    flight = InFlight(8)
    slow = flight.note_sent(2, 100.0, 0.0)
    for number in range(2):
        refuse(flight, 8, 10.0 + number)
    flight.note_accepted(slow, 2, 1.0)
    flight.note_ended(slow)
    refuse(flight, 2, 20.0, times=2)
    assert flight.limit == 1


def test_a15_a_reply_that_takes_long_holds_its_level() -> None:
    """One of two is answered after a minute. The other slot is refused meanwhile, and is not blamed on the first."""
    flight = InFlight(8)
    flight.note_sent(1, 100.0, 0.0)
    refuse(flight, 2, 10.0)
    assert flight.limit == 1
    flight.note_sent(1, 100.0, 11.0)
    assert refuse(flight, 1, 20.0, in_flight=2) is NOTHING


def test_what_has_left_survives_nothing() -> None:
    flight = InFlight(8)
    refuse(flight, 8, 0.0)
    flight.note_ended(flight.note_sent(1, 100.0, 1.0))
    refuse(flight, 7, 20.0)
    assert flight.doubted_since == 0.0


# Chance


def test_a_refusal_at_a_level_that_is_accepted_right_after_was_chance() -> None:
    flight = InFlight(8)
    refuse(flight, 8)
    accept(flight, 8)
    assert (flight.limit, flight.allowed, flight.is_limited) == (8, 8, False)
    assert flight.chance == pytest.approx(0.98 * 0.0396)


def test_an_acceptance_at_a_lower_level_makes_it_no_chance() -> None:
    flight = InFlight(8)
    refuse(flight, 8)
    accept(flight, 7)
    assert flight.limit == 7
    assert flight.chance == 0.02


def test_of_several_refusals_the_lowest_level_is_the_one_that_chance_has_to_hold() -> None:
    flight = InFlight(8)
    refuse(flight, 8)
    refuse(flight, 6)
    accept(flight, 6)
    assert flight.limit == 8
    assert flight.chance == pytest.approx(0.98 * (0.0396 + 0.02 * (1 - 0.0396)))


def test_chance_is_forgotten_as_slowly_as_it_is_learned_and_never_below_two_percent() -> None:
    flight = InFlight(8)
    for _ in range(5):
        refuse(flight, 8)
        accept(flight, 8)
    before = flight.chance
    assert 0.05 < before < 0.12
    accept(flight, 8)
    assert flight.chance == pytest.approx(0.98 * before)
    accept(flight, 8, times=200)
    assert flight.chance == 0.02


def test_chance_is_half_at_the_most() -> None:
    flight = InFlight(8)
    for _ in range(300):
        refuse(flight, 8, times=9)
        accept(flight, 8)
    assert flight.chance <= 0.5
    assert flight.chance > 0.48
    flight.blame_chance(0.9)
    assert (flight.chance, flight.proven_chance) == (0.5, 0.9)
    flight.blame_chance(0.1)
    assert (flight.chance, flight.proven_chance) == (0.5, 0.1)


def test_where_chance_refuses_often_one_refusal_gives_up_no_level() -> None:
    """The evidence of one is log(0.97 / chance): 1.6 where chance is 0.2, and 2 are needed."""
    flight = InFlight(8)
    flight.blame_chance(0.2)
    refuse(flight, 8)
    assert flight.limit == 8
    refuse(flight, 8)
    assert flight.limit == 7


def test_the_share_counts_from_the_first_refusal() -> None:
    flight = InFlight(8)
    accept(flight, 4, times=10)
    assert flight.frequency.share == 0.0
    refuse(flight, 4)
    assert flight.frequency.share == 1.0
    accept(flight, 4, times=3)
    assert flight.frequency.share == 0.25
    refuse(flight, 4)
    assert flight.frequency.share == 0.4


# Often


def every(flight: InFlight, apart: int, refusals: int) -> list[Suspicion]:
    """Of so many requests the last is refused, at a level that holds."""
    found = []
    for _ in range(refusals):
        accept(flight, 4, times=apart - 1)
        found.append(refuse(flight, 4))
    return found


@pytest.mark.parametrize(("apart", "first"), [(6, 7), (10, 7), (20, 7), (28, 7), (29, None), (50, None), (5, 14)])
def test_refusals_are_frequent_where_eight_come_in_two_hundred_requests_and_six_apart(
    apart: int, first: int | None
) -> None:
    flight = InFlight(8)
    accept(flight, 4, times=10)
    found = every(flight, apart, 20)
    assert (found.index(FREQUENT) if FREQUENT in found else None) == first


def test_after_a_trial_that_failed_three_hundred_requests_pass_before_the_next_and_twice_as_many_after_that() -> None:
    flight = InFlight(8)
    assert every(flight, 10, 8)[-1] is FREQUENT
    flight.blame_chance(0.1)
    found = every(flight, 10, 30)
    assert found == [NOTHING] * 29 + [FREQUENT]
    flight.blame_chance(0.1)
    assert every(flight, 10, 60) == [NOTHING] * 59 + [FREQUENT]


def test_after_a_trial_that_failed_the_refusals_are_counted_anew() -> None:
    flight = InFlight(8)
    every(flight, 10, 8)
    flight.blame_chance(0.1)
    accept(flight, 4, times=300)
    assert FREQUENT not in every(flight, 10, 7)
    assert every(flight, 10, 1) == [FREQUENT]


def test_a15_what_is_forgotten_leaves_no_trace() -> None:
    flight = InFlight(8)
    accept(flight, 8)
    every(flight, 6, 7)
    refuse(flight, 5, times=5)
    assert flight.limit < 8
    flight.forget()
    assert (flight.limit, flight.allowed, flight.is_limited, flight.frequency.share) == (8, 8, False, 0.0)
    assert (flight.doubted_since, flight.first_refused_at) == (None, inf)
    assert every(flight, 6, 1) == [NOTHING]
    assert flight.first_refused_at == 0.0
    assert flight.frequency.share == 1.0


# Whatever happens

ANSWERS = st.sampled_from(["send", "send", "send", "accept", "accept", "refuse", "leave", "forget", "blame"])
STEPS = st.lists(
    st.tuples(
        ANSWERS,
        st.integers(0, 63),
        st.sampled_from([1.0, 79.0, 80.0, 100.0, 4_000.0]),
        st.sampled_from([0.0, 0.02, 0.5, 61.0]),
        st.sampled_from([None, 0.0, 1.0, 6.0]),
    ),
    max_size=200,
)


@given(st.integers(1, 12), st.none() | st.integers(1, 16), STEPS)
def test_in_any_order_of_answers_the_beliefs_keep_within_their_bounds(
    most: int, first: int | None, steps: list[tuple[str, int, float, float, float | None]]
) -> None:
    flight, now = InFlight(most, first), 0.0
    under_way = []
    for step, which, tokens, seconds, hint in steps:
        now += seconds
        in_flight = len(under_way)
        if step == "send" and in_flight < flight.allowed:
            under_way.append(flight.note_sent(in_flight + 1, tokens, now))
        elif step == "forget":
            flight.forget()
        elif step == "blame":
            flight.blame_chance(which / 64)
        elif step != "send" and under_way:
            sent = under_way.pop(which % in_flight)
            if step == "accept":
                assert flight.note_accepted(sent, in_flight, now) is not FREQUENT
            elif step == "refuse":
                suspicion = flight.note_refused(sent, in_flight, now, hint)
                assert suspicion is not WINDOW or in_flight == sent.level == 1
            flight.note_ended(sent)
        assert 1 <= flight.limit <= most
        assert 1 <= flight.allowed <= most
        assert 0.0 <= flight.frequency.share <= 1.0
        assert 0.02 <= flight.chance <= 0.5
        assert all(-6.0 <= evidence <= 4.0 for evidence in flight._against)
        assert (flight.doubted_since is None) or flight.doubted_since <= now


def test_the_last_requests_try_no_level_again_where_one_that_is_refused_would_wait_for_longer() -> None:
    """Replies of a second, 4 at a time: 24 requests take 6 s, as long as the hint."""
    flight = InFlight(8)
    assert flight.may_try(1.0)
    for second in range(100):
        sent = flight.note_sent(4, 100.0, float(second))
        flight.note_accepted(sent, 4, second + 1.0)
        flight.note_ended(sent)
    flight.note_refused(flight.note_sent(5, 100.0, 100.0), 5, 100.0, 6.0)
    assert flight.limit == 4
    assert not flight.may_try(23.0)
    assert flight.may_try(24.5)
    flight.note_refused(flight.note_sent(5, 100.0, 101.0), 5, 101.0, None)
    assert flight.may_try(1.0)


def test_where_levels_are_being_accepted_the_last_requests_try_the_next_one_for_half_as_long() -> None:
    """Replies of a second, and a hint of 6 s: with five at a time 15 requests take half of it."""
    flight = InFlight(8)
    accept(flight, 4, times=100, seconds=1.0)
    refuse(flight, 5, 100.0, hint=6.0)
    accept(flight, 4, times=30, seconds=1.0)
    assert not flight.may_try(23.0)
    accept(flight, 5, seconds=1.0)
    assert flight.limit == 5
    assert flight.may_try(16.0)
    assert not flight.may_try(14.0)


def test_who_begins_with_what_others_were_left_with_tries_more_from_there() -> None:
    flight = InFlight(8)
    flight.begin_at(2)
    assert (flight.allowed, flight.is_limited) == (2, True)
    accept(flight, 2, times=12)
    assert flight.allowed == 3
    accept(flight, 3, times=2)
    assert flight.limit > 2


def test_what_others_were_left_with_changes_nothing_where_replies_have_told_already() -> None:
    flight = InFlight(8)
    accept(flight, 8)
    flight.begin_at(2)
    assert flight.allowed == 8
