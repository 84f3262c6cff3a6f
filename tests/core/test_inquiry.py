"""Which limit a 429 without limit headers is believed to have met, from the answers of small simulated services."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.pacing._inquiry import Inquiry
from aembed.core.pacing._reservation import Reservation, Throttling

OPEN = Throttling()
CLOSED = Throttling(closes=True)


def send(inquiry: Inquiry, at: float, level: int = 1, tokens: float = 100.0) -> Reservation:
    reservation = Reservation(tokens, 1, interactive=False, start=at)
    inquiry.congestion.note_spent(at, tokens)
    reservation.sent = inquiry.in_flight.note_sent(level, tokens, at)
    return reservation


def accept(inquiry: Inquiry, at: float, level: int = 1, tokens: float = 100.0) -> None:
    reservation = send(inquiry, at, level, tokens)
    inquiry.note_accepted(reservation, at, level)
    assert reservation.sent
    inquiry.in_flight.note_ended(reservation.sent)


def refuse(
    inquiry: Inquiry, at: float, level: int = 1, hint: float | None = None, tokens: float = 100.0
) -> tuple[Throttling, bool]:
    reservation = send(inquiry, at, level, tokens)
    answer = inquiry.note_refused(reservation, hint, at, level, inquiry.congestion.rate)
    assert reservation.sent
    inquiry.in_flight.note_ended(reservation.sent)
    return answer


def window(refused: int = 3) -> Inquiry:
    """100 tokens a second were accepted for a minute, and then nothing; as few requests as this are refused."""
    inquiry = Inquiry(8, 8)
    for second in range(1, 61):
        accept(inquiry, second)
    for _ in range(refused - 1):
        assert refuse(inquiry, 61.0) == (OPEN, False)
    assert refuse(inquiry, 61.0) == (CLOSED, False)
    return inquiry


def proven_window() -> Inquiry:
    inquiry = window()
    for second in range(70, 80):
        accept(inquiry, second)
    assert inquiry.kind == "window"
    return inquiry


def test_nothing_is_believed_before_a_refusal() -> None:
    inquiry = Inquiry(8, 4)
    for second in range(100):
        accept(inquiry, second, level=4)
    assert (inquiry.kind, inquiry.belief(), inquiry.explains_by_pace) == ("", "", False)
    assert inquiry.congestion.rate == inf


def test_a15_one_refusal_among_others_is_a_limit_of_requests_at_a_time() -> None:
    inquiry = Inquiry(8, 8)
    assert refuse(inquiry, 0.0, level=5, hint=6.0) == (OPEN, False)
    assert inquiry.kind == "in flight"
    assert inquiry.belief() == "4 requests at a time: so many are accepted, and 5 were refused"
    assert inquiry.congestion.rate == inf


def test_a_window_is_believed_once_its_pace_has_left_few_refusals() -> None:
    """Seven acceptances prove it where all had been refused: there is a pace from the first one on."""
    inquiry = window()
    assert (inquiry.kind, inquiry.explains_by_pace) == ("", True)
    assert inquiry.congestion.rate == inf
    accept(inquiry, 70.0)
    assert inquiry.congestion.rate == pytest.approx(100.0, rel=0.1)
    assert (inquiry.kind, inquiry.explains_by_pace) == ("", False)
    for second in range(71, 77):
        accept(inquiry, second)
    assert inquiry.kind == ""
    accept(inquiry, 77.0)
    assert (inquiry.kind, inquiry.explains_by_pace) == ("window", True)
    pace = 60.0 * inquiry.congestion.rate
    assert inquiry.belief() == f"about {pace:,.0f} tokens a minute: at that pace the refusals became few"
    assert 5_400 < pace < 6_600


def test_what_is_refused_until_the_first_acceptance_is_the_same_refusal() -> None:
    inquiry = window()
    for second in range(62, 70):
        assert refuse(inquiry, second) == (CLOSED, False)
    accept(inquiry, 70.0)
    assert inquiry.in_flight.limit == 8
    assert inquiry.congestion.rate == pytest.approx(100.0, rel=0.15)


def test_a_window_takes_no_slots() -> None:
    inquiry = Inquiry(8, 8)
    for level in (8, 7, 3):
        assert refuse(inquiry, 0.0, level=level) == (OPEN, False)
    assert inquiry.in_flight.allowed == 1
    assert refuse(inquiry, 0.0, level=1) == (CLOSED, False)
    assert (inquiry.in_flight.limit, inquiry.in_flight.allowed) == (8, 8)


def test_nothing_that_was_accepted_before_the_hint_was_over_is_a_window_too() -> None:
    inquiry = Inquiry(8, 8)
    refuse(inquiry, 0.0, level=8, hint=6.0)
    refuse(inquiry, 1.0, level=7, hint=6.0)
    assert inquiry.in_flight.limit == 6
    accept(inquiry, 7.0, level=3)
    assert inquiry.in_flight.limit == 8
    assert inquiry.congestion.rate < inf
    for second in range(8, 20):
        accept(inquiry, second, level=3)
    assert inquiry.kind == "window"


def test_a_proven_window_explains_the_next_refusal_which_closes_for_all() -> None:
    inquiry = proven_window()
    before = inquiry.congestion.rate
    assert refuse(inquiry, 100.0, level=5) == (CLOSED, False)
    assert inquiry.in_flight.limit == 8
    accept(inquiry, 110.0)
    assert inquiry.kind == "window"
    assert inquiry.congestion.rate < before


def test_a_try_of_more_at_a_time_is_no_refusal_of_the_pace() -> None:
    inquiry = Inquiry(64, 1)
    for second in range(60):
        accept(inquiry, second)
    for _ in range(3):
        refuse(inquiry, 61.0)
    for second in range(70, 90):
        accept(inquiry, second)
    assert inquiry.kind == "window"
    rate = inquiry.congestion.rate
    assert refuse(inquiry, 100.0, level=2) == (OPEN, False)
    accept(inquiry, 101.0)
    assert inquiry.congestion.rate >= rate
    assert inquiry.in_flight.limit == 1
    assert inquiry.kind == "window"


def taken_back() -> Inquiry:
    """All had been refused: three refusals at the pace that was measured undo it."""
    inquiry = window()
    accept(inquiry, 70.0, level=8)
    assert inquiry.congestion.rate < inf
    assert refuse(inquiry, 71.0, level=8) == (OPEN, False)
    assert refuse(inquiry, 72.0, level=4) == (OPEN, False)
    assert refuse(inquiry, 73.0, level=2) == (OPEN, True)
    return inquiry


def test_a15_a_pace_that_leaves_as_many_refusals_is_taken_back() -> None:
    inquiry = taken_back()
    assert inquiry.congestion.rate == inf
    assert not inquiry.explains_by_pace
    for second in range(73, 100):
        accept(inquiry, second, level=8)
    assert inquiry.kind == "chance"
    assert inquiry.belief() == "no limit: 100% of the requests were refused, at any pace and number in flight"
    assert refuse(inquiry, 100.0, level=8) == (OPEN, False)
    assert inquiry.congestion.rate == inf


def test_what_was_sent_before_there_was_a_pace_is_no_refusal_of_it() -> None:
    inquiry = window()
    earlier = [send(inquiry, 69.0, level) for level in range(2, 8)]
    accept(inquiry, 70.0)
    for reservation in earlier:
        refusal, undone = inquiry.note_refused(reservation, None, 70.5, 8, inquiry.congestion.rate)
        assert (refusal, undone) == (OPEN, False)
    assert inquiry.congestion.rate < inf


def seldom_refused() -> Inquiry:
    """4 of 31 are refused, three of them alone and in a row."""
    inquiry = Inquiry(8, 8)
    refuse(inquiry, 0.0, level=8)
    for second in range(1, 28):
        accept(inquiry, second)
    for _ in range(2):
        assert refuse(inquiry, 28.0) == (OPEN, False)
    assert refuse(inquiry, 28.0) == (CLOSED, False)
    accept(inquiry, 30.0)
    return inquiry


def test_the_fewer_were_refused_before_the_more_it_takes_to_prove_a_pace() -> None:
    """47 acceptances: log(0.968 / 0.871) of 5 each."""
    inquiry = seldom_refused()
    for second in range(31, 31 + 47):
        assert inquiry.kind == ""
        accept(inquiry, second)
    accept(inquiry, 100.0)
    assert inquiry.kind == "window"


def test_a_pace_that_leaves_as_many_refusals_is_taken_back_whoever_tells_of_them() -> None:
    """By headers, or because a window explains them; the share is that of the time before the pace."""
    inquiry, undone = seldom_refused(), []
    for second in (40.0, 42.0, 44.0):
        refusal, taken = inquiry.note_exhausted(send(inquiry, second), second, inquiry.congestion.rate)
        assert refusal == CLOSED
        undone.append(taken)
        accept(inquiry, second + 1.0)
    assert undone == [False, False, True]
    assert inquiry.congestion.rate == inf
    assert inquiry.belief() == "no limit: 13% of the requests were refused, at any pace and number in flight"


def test_refusals_until_the_next_acceptance_are_one_of_a_window_that_is_known() -> None:
    inquiry = proven_window()
    for _ in range(50):
        assert refuse(inquiry, 100.0, level=8) == (CLOSED, False)
    assert inquiry.kind == "window"


def test_a_limit_that_the_headers_name_is_asked_nothing() -> None:
    inquiry = Inquiry(8, 8)
    assert inquiry.note_exhausted(send(inquiry, 0.0, level=8), 0.0, inf) == (CLOSED, False)
    assert inquiry.in_flight.limit == 8
    assert (inquiry.kind, inquiry.in_flight.frequency.share) == ("", 0.0)
    assert inquiry.congestion.is_asked


def test_a_pace_is_forgotten_with_its_trial_where_the_headers_tell_more() -> None:
    inquiry = proven_window()
    inquiry.forget()
    assert (inquiry.kind, inquiry.belief(), inquiry.explains_by_pace) == ("", "", False)
    assert inquiry.congestion.rate == inf
    assert refuse(inquiry, 200.0, level=4) == (OPEN, False)


def test_a_size_that_no_window_takes_is_told_with_the_refusal() -> None:
    inquiry = Inquiry(8, 8)
    accept(inquiry, 0.0, tokens=9_000.0)
    assert refuse(inquiry, 1.0, level=2, tokens=50_000.0) == (OPEN, False)
    accept(inquiry, 2.0, tokens=49_000.0)
    for _ in range(2):
        refuse(inquiry, 3.0, tokens=500_000.0)
    assert refuse(inquiry, 3.0, tokens=500_000.0) == (Throttling(too_large=True, closes=True), False)
    assert refuse(inquiry, 4.0, tokens=49_000.0) == (CLOSED, False)


def test_a_window_that_is_seen_again_is_tried_anew() -> None:
    """A pace that was taken back does not keep a real window from being found, after ten refusals in a row."""
    inquiry = taken_back()
    for second in range(100, 110):
        accept(inquiry, second, level=4)
    answers = [refuse(inquiry, 110.0) for _ in range(20)]
    assert answers.index((CLOSED, False)) >= 3
    for second in range(120, 130):
        accept(inquiry, second)
    assert inquiry.kind == "window"


def test_without_a_sent_request_there_is_nothing_to_ask() -> None:
    inquiry = Inquiry(8, 8)
    reservation = Reservation(100.0, 1, interactive=False)
    inquiry.note_accepted(reservation, 0.0, 1)
    assert inquiry.note_refused(reservation, None, 0.0, 1, inf) == (CLOSED, False)


# Services


@dataclass
class Service:
    """Of one Inquiry: it keeps as many in flight as are allowed, and is answered on a clock of its own."""

    accepts: Callable[[float, int], bool]
    """At that moment, with so many in its hands."""
    seconds: Callable[[], float]
    inquiry: Inquiry
    hint: float | None = None
    closings: int = 0
    refusals: int = 0
    accepted: int = 0
    paces: int = 0
    now: float = 0.0
    _gate: float = -inf
    _due: float = 0.0
    _events: list[tuple[float, int, bool, Reservation]] = field(default_factory=list)

    def run(self, requests: int) -> Service:
        """Until so many were answered. What is refused goes again when its hint is over, others meanwhile."""
        number = taken = 0
        while self.accepted + self.refusals < requests:
            while len(self._events) < self.inquiry.in_flight.allowed and self.now >= max(self._gate, self._due):
                reservation = send(self.inquiry, self.now, len(self._events) + 1)
                rate = self.inquiry.congestion.rate
                self._due = self.now + (0.0 if rate == inf else reservation.tokens / rate)
                accepted = self.accepts(self.now, taken)
                taken += accepted
                number += 1
                seconds = self.seconds() if accepted else 0.02
                heapq.heappush(self._events, (self.now + seconds, number, accepted, reservation))
            free = len(self._events) < self.inquiry.in_flight.allowed
            sending = max(self._gate, self._due) if free else inf
            if not self._events or sending < self._events[0][0]:
                self.now = max(self.now, sending)
                continue
            self.now, _, accepted, reservation = heapq.heappop(self._events)
            taken -= accepted
            self._answer(accepted, reservation)
        return self

    def _answer(self, accepted: bool, reservation: Reservation) -> None:
        in_flight = len(self._events) + 1
        assert reservation.sent
        if accepted:
            self.accepted += 1
            had_pace = self.inquiry.congestion.rate < inf
            self.inquiry.note_accepted(reservation, self.now, in_flight)
            self.paces += self.inquiry.congestion.rate < inf and not had_pace
        else:
            self.refusals += 1
            rate = self.inquiry.congestion.rate
            refusal, _ = self.inquiry.note_refused(reservation, self.hint, self.now, in_flight, rate)
            if refusal.closes:
                self.closings += 1
                self._gate = self.now + (1.0 if self.hint is None else self.hint)
        self.inquiry.in_flight.note_ended(reservation.sent)


def always(seconds: float) -> Callable[[], float]:
    return lambda: seconds


@pytest.mark.parametrize("takes", [1, 2, 4, 7])
@pytest.mark.parametrize("hint", [None, 1.0, 6.0])
@pytest.mark.parametrize("concurrency", [8, 32])
def test_a15_a_service_that_takes_so_many_at_a_time_is_given_so_many(
    takes: int, hint: float | None, concurrency: int
) -> None:
    """At most 3 % and the first burst are refused, and nothing is slowed down: no pace, no closed gate."""
    inquiry = Inquiry(concurrency, concurrency)
    service = Service(lambda now, taken: taken < takes, always(0.1), inquiry, hint).run(600)
    assert inquiry.in_flight.limit == takes
    assert inquiry.kind == "in flight"
    assert inquiry.belief().startswith(f"{takes} requests at a time")
    assert service.refusals <= 0.03 * 600 + concurrency
    assert (service.closings, service.paces) == (0, 0)
    assert service.now <= 1.3 * service.accepted * 0.1 / takes


@pytest.mark.parametrize(("before", "after"), [(7, 3), (3, 7), (2, 16), (16, 2), (7, 1)])
def test_a15_a_service_that_takes_more_or_fewer_later_is_followed(before: int, after: int) -> None:
    inquiry = Inquiry(16, 16)
    change = 300 * 0.1 / before
    takes = lambda now, taken: taken < (before if now < change else after)  # noqa: E731
    service = Service(takes, always(0.1), inquiry, 1.0).run(900)
    assert inquiry.in_flight.limit == after
    assert service.refusals <= 0.03 * 900 + 2 * 16
    assert (service.closings, service.paces) == (0, 0)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_a15_refusals_by_chance_close_nothing_and_hardly_slow_down_in_the_long_run(share: float, seed: int) -> None:
    """Paces that are tried are taken back; levels that are doubted are tried again."""
    random, inquiry = Random(seed), Inquiry(8, 8)
    service = Service(lambda now, taken: random.random() >= share, always(0.1), inquiry, 1.0).run(4_000)
    assert service.closings == 0
    assert inquiry.in_flight.limit >= 4
    assert service.paces <= 6
    assert service.refusals <= 1.3 * share * 4_000
    assert service.now <= 2.0 * service.accepted * 0.1 / 8


def test_a15_refusals_by_chance_that_are_many_are_known_with_their_share() -> None:
    random, inquiry = Random(1), Inquiry(8, 8)
    service = Service(lambda now, taken: random.random() >= 0.05, always(0.1), inquiry, 1.0)
    told = {service.run(requests).inquiry.belief() for requests in range(100, 4_000, 20)}
    assert any(belief.startswith("no limit: ") for belief in told)
    assert 0.02 <= inquiry.in_flight.proven_chance <= 0.2


# Whatever happens


@given(
    takes=st.integers(2, 12),
    concurrency=st.integers(1, 16),
    first=st.integers(1, 16),
    seconds=st.sampled_from([0.05, 0.3, 2.0, 10.0]),
    spread=st.sampled_from([0.0, 0.5]),
    hint=st.sampled_from([None, 0.0, 1.0, 6.0, 60.0]),
    seed=st.integers(0, 99),
)
def test_a15_where_more_than_one_is_taken_at_a_time_no_gate_closes_and_no_pace_is_set(
    takes: int, concurrency: int, first: int, seconds: float, spread: float, hint: float | None, seed: int
) -> None:
    random, inquiry = Random(seed), Inquiry(concurrency, first)
    drawn = lambda: seconds * random.lognormvariate(0.0, spread)  # noqa: E731
    service = Service(lambda now, taken: taken < takes, drawn, inquiry, hint).run(400)
    assert (service.closings, service.paces) == (0, 0)
    assert inquiry.in_flight.limit <= takes
    assert inquiry.in_flight.limit >= min(takes, concurrency) - 1


@given(
    st.integers(1, 8),
    st.lists(
        st.tuples(
            st.sampled_from(["send", "send", "accept", "refuse", "exhausted", "leave"]),
            st.integers(0, 63),
            st.sampled_from([0.0, 0.02, 0.5, 61.0]),
            st.sampled_from([None, 0.0, 6.0]),
            st.sampled_from([1.0, 100.0, 50_000.0]),
        ),
        max_size=200,
    ),
)
def test_in_any_order_of_answers_nothing_raises_and_there_is_a_pace_or_none(
    concurrency: int, steps: list[tuple[str, int, float, float | None, float]]
) -> None:
    inquiry, now, under_way = Inquiry(concurrency, concurrency), 0.0, list[Reservation]()
    for step, which, seconds, hint, tokens in steps:
        now += seconds
        in_flight = len(under_way)
        if step == "send" and in_flight < inquiry.in_flight.allowed:
            under_way.append(send(inquiry, now, in_flight + 1, tokens))
        elif step != "send" and under_way:
            reservation = under_way.pop(which % in_flight)
            rate = inquiry.congestion.rate
            if step == "accept":
                inquiry.note_accepted(reservation, now, in_flight)
            elif step == "refuse":
                is_explained = inquiry.explains_by_pace
                refusal, _ = inquiry.note_refused(reservation, hint, now, in_flight, rate)
                assert reservation.sent
                assert not refusal.closes or is_explained or reservation.sent.level == in_flight == 1
            elif step == "exhausted":
                assert inquiry.note_exhausted(reservation, now, rate)[0].closes
            assert reservation.sent
            inquiry.in_flight.note_ended(reservation.sent)
        assert 1 <= inquiry.in_flight.limit <= concurrency
        assert 1 <= inquiry.in_flight.allowed <= concurrency
        assert inquiry.congestion.rate > 0.0 or inquiry.congestion.is_asked
        assert inquiry.kind in ("", "window", "in flight", "chance")
        assert bool(inquiry.belief()) is bool(inquiry.kind)
