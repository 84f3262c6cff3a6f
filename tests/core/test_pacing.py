from __future__ import annotations

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.pacing import Pacer, Reservation
from aembed.types import Hints
from tests.core.traffic import accept, refuse, refuse_alone, send


def test_requests_start_one_after_another_in_the_order_of_their_calls() -> None:
    pacer = Pacer(tokens_per_minute=60_000)
    starts = [pacer.reserve(tokens, 100.0).start for tokens in (970, 9_700, 970)]
    assert starts == pytest.approx([100.0, 100.9, 110.9])


def test_c9_a_large_batch_is_not_starved_by_small_ones() -> None:
    pacer = Pacer(tokens_per_minute=60_000)
    pacer.reserve(10, 0.0)
    large = pacer.reserve(9_700, 0.0)
    small = [pacer.reserve(10, 0.0) for _ in range(100)]
    assert large.start < 1.0
    assert all(reservation.start > large.start for reservation in small)


def test_c9_a_reservation_that_is_given_back_costs_nothing() -> None:
    pacer = Pacer(tokens_per_minute=60_000, requests_per_minute=60)
    first = pacer.reserve(970, 0.0)
    given_up = pacer.reserve(9_700, 0.0)
    pacer.give_back(given_up, 0.5)
    assert pacer.reserve(970, 0.5).start == pytest.approx(given_up.start)
    assert first.start == 0.0


@given(
    costs=st.lists(st.integers(1, 27_000), min_size=1, max_size=200),
    late=st.randoms(use_true_random=False),
)
def test_no_sixty_seconds_hold_more_than_the_limit(costs: list[int], late: Random) -> None:
    pacer = Pacer(tokens_per_minute=1_000_000)
    now, arrivals = 0.0, []
    for cost in costs:
        now = max(now, pacer.reserve(cost, now).start) + late.uniform(0.0, 0.1)
        arrivals.append((now + late.uniform(0.0, 0.05), cost))
    for begin, _ in arrivals:
        assert sum(cost for at, cost in arrivals if begin <= at < begin + 60.0) <= 1_000_000


def test_a_query_goes_before_the_bulk_request_that_waits() -> None:
    pacer = Pacer(tokens_per_minute=60_000)
    pacer.reserve(4_850, 0.0)
    bulk = pacer.reserve(970, 0.0)
    start = bulk.start
    query = pacer.reserve(10, 0.0, interactive=True)
    assert query.start < start < bulk.start


@pytest.mark.parametrize("tokens", [970, 800])
def test_queries_push_a_bulk_request_back_by_five_seconds_at_most(tokens: float) -> None:
    pacer = Pacer(tokens_per_minute=60_000)
    pacer.reserve(9_700, 0.0)
    bulk = pacer.reserve(970, 0.0)
    start = bulk.start
    for _ in range(100):
        pacer.reserve(tokens, 0.0, interactive=True)
    assert start < bulk.start <= start + 5.0


def test_bulk_leaves_five_percent_while_there_are_queries() -> None:
    def sent_in_a_minute(begin: float) -> float:
        reservations: list[Reservation] = [pacer.reserve(1_000, begin)]
        while reservations[-1].start < begin + 60.0:
            reservations.append(pacer.reserve(1_000, reservations[-1].start))
        return 1_000.0 * (len(reservations) - 1)

    pacer = Pacer(tokens_per_minute=1_000_000)
    assert sent_in_a_minute(0.0) == pytest.approx(970_000, rel=0.01)
    pacer.reserve(1, 100.0, interactive=True)
    assert sent_in_a_minute(100.0) == pytest.approx(0.95 * 970_000, rel=0.01)
    assert sent_in_a_minute(300.0) == pytest.approx(970_000, rel=0.01)


def test_batches_are_small_parts_of_a_known_token_limit() -> None:
    most = Pacer(tokens_per_minute=1_000_000).max_batch_tokens
    assert most is not None
    assert 0.025 * 1_000_000 <= most <= 0.03 * 1_000_000


def test_the_first_wave_is_small_and_a_reply_that_names_no_limit_ends_it() -> None:
    pacer = Pacer(concurrency=8)
    assert pacer.max_batch_tokens == 8_000
    assert Pacer(concurrency=64).max_batch_tokens == 1_000
    accept(pacer, 1_000, 0.0)
    assert pacer.max_batch_tokens is None


def test_a_limit_in_the_first_reply_counts_what_was_sent_before() -> None:
    pacer = Pacer()
    first = [send(pacer, 4_000, 10.0, in_flight=number) for number in range(1, 9)]
    assert {reservation.start for reservation in first} == {10.0}
    pacer.note_accepted(first[0], Hints(limit_tokens=1_000_000), 10.2, 8)
    assert pacer.reserve(1_000, 10.2).start == pytest.approx(10.1 + 60 * 32_000 / 970_000)
    assert pacer.max_batch_tokens == 27_000


def test_headers_only_lower_the_limit_that_the_user_set() -> None:
    pacer = Pacer(tokens_per_minute=100_000)
    pacer.observe(Hints(limit_tokens=1_000_000), 0.0)
    assert pacer.max_batch_tokens == 2_700
    pacer.observe(Hints(limit_tokens=50_000), 1.0)
    assert pacer.max_batch_tokens == 1_350
    pacer.observe(Hints(limit_tokens=1_000_000), 2.0)
    assert pacer.max_batch_tokens == 2_700


def test_a_header_that_repeats_the_users_limit_holds_nothing_up() -> None:
    pacer = Pacer(tokens_per_minute=60_000)
    first = send(pacer, 9_700, 0.0)
    pacer.reserve(9_700, 0.0)
    pacer.note_accepted(first, Hints(limit_tokens=60_000), 10.0, 1)
    assert pacer.reserve(970, 10.0).start == pytest.approx(20.0, abs=0.2)


def test_a_learned_limit_follows_the_headers_both_ways() -> None:
    pacer = Pacer()
    for limit, most in ((100_000, 2_700), (50_000, 1_350), (200_000, 5_400)):
        pacer.observe(Hints(limit_tokens=limit), 0.0)
        assert pacer.max_batch_tokens == most


@pytest.mark.parametrize("hints", [None, Hints(), Hints(limit_requests=0, limit_tokens=0, remaining_tokens=-1)])
def test_missing_fields_and_zeros_say_nothing(hints: Hints | None) -> None:
    pacer = Pacer()
    pacer.observe(hints, 0.0)
    assert [pacer.reserve(100_000, 1.0).start for _ in range(5)] == [1.0] * 5


@pytest.mark.parametrize("known", [None, 1_000_000])
def test_a15_a_refusal_takes_one_slot_and_no_speed(known: float | None) -> None:
    """One of eight is refused: seven are taken. Whether a rate is known makes no difference."""
    pacer = Pacer(concurrency=8, tokens_per_minute=known)
    refusal = refuse(pacer, 100, 0.0, in_flight=8)
    assert not refusal.closes
    assert not refusal.too_large
    assert pacer.concurrency == 7
    assert [pacer.reserve(0, 1.0).start for _ in range(9)] == [1.0] * 9
    assert pacer.belief().startswith("7 requests at a time: so many are accepted, and 8 were refused")
    assert pacer.kind == "in flight"


def test_a15_the_slot_that_was_refused_is_tried_again_after_twelve_acceptances() -> None:
    pacer = Pacer(concurrency=8)
    refuse(pacer, 100, 0.0, in_flight=8)
    for number in range(11):
        accept(pacer, 100, 1.0 + number, in_flight=7)
        assert pacer.concurrency == 7
    accept(pacer, 100, 12.0, in_flight=7)
    assert pacer.concurrency == 8


def test_a15_a_service_that_refuses_all_for_a_while_has_a_window_and_its_pace_is_kept() -> None:
    """100 tokens a second were accepted for a minute; then what is sent alone is refused three times in a row."""
    pacer = Pacer()
    for half in range(1, 122):
        accept(pacer, 50, half / 2, seconds=0.1)
    assert refuse_alone(pacer, 50, 61.5).closes
    accept(pacer, 50, 70.0, seconds=0.1)
    first, second = pacer.reserve(970, 200.0), pacer.reserve(970, 200.0)
    assert 970 / (second.start - first.start + 0.1) == pytest.approx(100.0, rel=0.1)
    assert pacer.concurrency == 8
    for half in range(400):
        accept(pacer, 50, 300.0 + half / 2, seconds=0.1)
    assert pacer.kind == "window"
    assert "tokens a minute: at that pace the refusals became few" in pacer.belief()


def test_a_header_that_says_that_nothing_is_left_closes_the_gate_for_all_at_once() -> None:
    pacer = Pacer()
    nothing_left = Hints(limit_requests=60, remaining_requests=0, reset_requests=30.0)
    assert refuse(pacer, 100, 0.0, hints=nothing_left, in_flight=8).closes
    assert pacer.concurrency == 8
    assert pacer.kind == ""
    some_left = Hints(limit_requests=60, remaining_requests=1, reset_requests=30.0)
    assert not refuse(pacer, 100, 100.0, hints=some_left, in_flight=8).closes
    assert pacer.concurrency == 7


def test_a_header_of_fewer_tokens_than_the_request_took_says_that_nothing_is_left_for_it() -> None:
    left = Hints(limit_tokens=60_000, remaining_tokens=99, reset_tokens=30.0)
    assert refuse(Pacer(), 100, 0.0, hints=left, in_flight=8).closes
    assert not refuse(Pacer(), 99, 0.0, hints=left, in_flight=8).closes


def test_a20_a_window_of_seconds_that_a_refusal_is_the_first_to_name_is_believed_at_once() -> None:
    """Ten requests in ten seconds, told by refusals alone: what was accepted before says nothing of a minute."""
    pacer = Pacer()
    for _ in range(10):
        accept(pacer, 100, 0.1)
    told = Hints(limit_requests=10, remaining_requests=0, reset_requests=10.0, window_requests=10.0)
    for _ in range(6):
        assert refuse(pacer, 100, 0.12, hints=told, in_flight=8).closes
    first, second = pacer.reserve(100, 60.0), pacer.reserve(100, 60.0)
    assert 1.0 <= second.start - first.start <= 1.3


def test_a_size_that_was_never_accepted_is_to_be_split_once_it_was_refused_alone() -> None:
    """Refused among others it may be one request too many."""
    pacer = Pacer()
    accept(pacer, 50_000, 0.0)
    assert not refuse(pacer, 290_000, 2.0, in_flight=3).too_large
    assert not pacer.is_too_large(290_000)
    pacer = Pacer()
    accept(pacer, 50_000, 0.0)
    assert refuse_alone(pacer, 290_000, 2.0).too_large
    assert pacer.is_too_large(290_000)
    assert not pacer.is_too_large(145_000)


def test_a_size_that_was_never_accepted_is_to_be_split_where_the_headers_have_no_room_for_it() -> None:
    pacer = Pacer()
    accept(pacer, 50_000, 0.0)
    hints = Hints(limit_tokens=10_000_000, remaining_tokens=100_000)
    assert refuse(pacer, 290_000, 2.0, hints=hints, in_flight=3).too_large
    assert not pacer.is_too_large(145_000)


def test_a_batch_of_before_the_share_shrank_is_to_be_split() -> None:
    pacer = Pacer(tokens_per_minute=1_000_000)
    assert not pacer.is_beyond_share(1e9), "there is no share"
    pacer.take_share(1.0, 0.0)
    whole = pacer.max_batch_tokens
    assert whole == 27_000
    assert not pacer.is_beyond_share(whole)
    pacer.take_share(0.25, 1.0)
    assert pacer.is_beyond_share(whole)
    assert not pacer.is_beyond_share(whole / 2)
    assert not Pacer().is_beyond_share(1e9), "no limit is known"


def test_a_size_that_was_accepted_before_is_not_split() -> None:
    pacer = Pacer(tokens_per_minute=1_000_000)
    accept(pacer, 27_000, 0.0, seconds=1.0)
    assert not refuse_alone(pacer, 27_000, 2.0).too_large


def test_p15_processes_on_one_bucket_slow_down_with_what_is_left_of_it() -> None:
    def hints(remaining: int) -> Hints:
        return Hints(limit_tokens=60_000, remaining_tokens=remaining, reset_tokens=(6_000 - remaining) / 1_000)

    pacer = Pacer()
    for second in range(0, 20, 2):
        accept(pacer, 100, second, hints=hints(5_900))
    assert pacer.max_batch_tokens == 1_620
    for second in range(20, 40, 2):
        accept(pacer, 100, second, hints=hints(2_000))
    first, second_one = pacer.reserve(100, 100.0), pacer.reserve(100, 100.0)
    assert second_one.start - first.start > 4 * (100 / 970) - 0.1


def test_repr_shows_counts() -> None:
    pacer = Pacer(requests_per_minute=3_000)
    for _ in range(2):
        accept(pacer, 1, 0.0)
    for _ in range(3):
        refuse(pacer, 1, 0.2, in_flight=8)
    assert repr(pacer) == (
        "<Pacer 2 accepted, 3 throttled, tokens_per_minute=unknown, requests_per_minute=3,000, concurrency=7>"
    )
    assert "tokens_per_minute=60,000," in repr(Pacer(tokens_per_minute=60_000))


def test_what_refusals_teach_holds_no_request_up_for_longer_than_a_window() -> None:
    """A provider that hung, and then refused, accepted next to nothing in the minute that was measured."""
    pacer, now = Pacer(), 0.0
    for tokens in (3, 40, 3, 40):
        for _ in range(3):
            now = max(now, pacer.reserve(tokens, now).start)
            refuse(pacer, tokens, now)
        accept(pacer, 3, now + 45.0)
        now += 105.0
    starts = [pacer.reserve(40, now).start for _ in range(5)]
    assert max(b - a for a, b in itertools.pairwise(starts)) <= 60.0 + 1e-6


def test_a_request_that_carries_more_than_was_reserved_is_charged_for_it_and_pushes_bulk_back() -> None:
    pacer = Pacer(tokens_per_minute=60_000)
    query = pacer.reserve(10, 0.0, interactive=True)
    pacer.resize(query, 970 + 10, 1, 0.0)
    bulk = pacer.reserve(10, 0.0)
    assert bulk.start == pytest.approx(980 / 970, abs=0.11)
    before = bulk.start
    another = pacer.reserve(10, 0.0, interactive=True)
    pacer.resize(another, 970, 1, 0.0)
    assert bulk.start - before == pytest.approx(970 / 970, abs=0.02)
    pacer.resize(another, 10, 1, 0.0)
    assert bulk.start == pytest.approx(before, abs=0.02)


def test_there_is_room_for_as_many_queries_as_may_start_at_once() -> None:
    pacer = Pacer(requests_per_minute=600)
    room = int(pacer.startable_queries(0.0))
    starts = [pacer.reserve(1, 0.0, interactive=True).start for _ in range(room + 5)]
    assert sum(start <= 1e-6 for start in starts) in (room, room + 1)
    assert pacer.startable_queries(0.0) < 1
    assert Pacer().startable_queries(0.0) == float("inf")


def test_queries_that_go_before_bulk_cost_it_their_own_tokens_and_requests_and_no_more() -> None:
    """Bulk that waits for tokens has a place in the requests, too, which goes back with it."""
    pacer, now = Pacer(tokens_per_minute=5_000_000, requests_per_minute=10_000), 0.0
    pacer.reserve(130_000, now)
    bulk = pacer.reserve(130_000, now)
    before = bulk.start
    while now < before - 0.02:
        now += 0.02
        assert pacer.reserve(10, now, interactive=True).start == now
    assert bulk.start == pytest.approx(before, abs=0.05)


def test_concurrency_is_one_at_least_and_what_was_given_at_most() -> None:
    pacer = Pacer(concurrency=8)
    for second in range(20):
        refuse(pacer, 100, 2.0 * second, in_flight=pacer.concurrency)
        assert 1 <= pacer.concurrency <= 8
    for second in range(200):
        accept(pacer, 100, 50.0 + second, in_flight=pacer.concurrency)
        assert 1 <= pacer.concurrency <= 8
    assert pacer.concurrency == 8
    one = Pacer(concurrency=1)
    refuse(one, 100, 0.0)
    assert one.concurrency == 1


def test_a_bulk_request_that_is_given_back_moves_no_more() -> None:
    pacer = Pacer(tokens_per_minute=60_000)
    pacer.reserve(970, 0.0)
    bulk = pacer.reserve(9_700, 0.0)
    pacer.give_back(bulk, 0.0)
    assert pacer.spent_units("tokens", 1.0) == 970
    query = pacer.reserve(10, 0.0, interactive=True)
    pacer.resize(query, 20, 1, 0.0)
    assert pacer.spent_units("tokens", 1.0) == 990
    assert pacer.spent_units("requests", 1.0) == 2
    assert pacer.reserve(970, 0.0).start < 1.0


def test_a_query_that_is_given_back_leaves_the_bulk_request_where_queries_go_before_it() -> None:
    pacer = Pacer(tokens_per_minute=60_000)
    pacer.reserve(9_700, 0.0)
    bulk = pacer.reserve(970, 0.0)
    pacer.give_back(pacer.reserve(10, 0.0, interactive=True), 0.0)
    start = bulk.start
    assert pacer.reserve(97, 0.0, interactive=True).start < start
    assert bulk.start == pytest.approx(start + 0.1, abs=0.02)


def test_bulk_that_starts_now_is_moved_by_nothing() -> None:
    pacer = Pacer(tokens_per_minute=60_000)
    bulk = pacer.reserve(970, 10.0)
    assert bulk.start == 10.0
    query = pacer.reserve(970, 10.0, interactive=True)
    assert bulk.start == 10.0
    pacer.resize(query, 9_700, 1, 10.0)
    assert bulk.start == 10.0


def test_a_request_that_carries_more_pushes_bulk_back_by_five_seconds_at_most() -> None:
    pacer = Pacer(tokens_per_minute=60_000)
    pacer.reserve(9_700, 0.0)
    bulk = pacer.reserve(970, 0.0)
    start = bulk.start
    query = pacer.reserve(10, 0.0, interactive=True)
    pacer.resize(query, 7_000, 1, 0.0)
    assert start < bulk.start <= start + 0.1
    assert pacer.spent_units("tokens", 20.0) == 9_700 + 970 + 7_000


def test_queries_take_three_seconds_of_a_limit_ahead_and_bulk_leaves_them_to_it_for_a_minute() -> None:
    pacer = Pacer(requests_per_minute=600)
    assert pacer.startable_queries(0.0) == pytest.approx(3.1 * 9.7)
    starts = [pacer.reserve(1, 0.0, interactive=True).start for _ in range(32)]
    assert starts[:31] == [0.0] * 31
    assert starts[31] == pytest.approx(32 / 9.7 - 3.1 - 1 / 9.7, abs=0.01)
    assert pacer.has_queries(60.0)
    assert not pacer.has_queries(60.1)
    assert not Pacer().has_queries(0.0)
