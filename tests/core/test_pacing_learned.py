"""What one pacer learns of both limits from headers and from refusals."""

from __future__ import annotations

import pytest

from aembed.core.pacing import Pacer
from aembed.types import Hints
from tests.core.traffic import accept, refuse, refuse_alone


def bucket_hints(remaining: int, *, unit: str = "tokens") -> Hints:
    """A bucket of a tenth of 60,000 a minute."""
    reset = (6_000 - remaining) / 1_000
    if unit == "tokens":
        return Hints(limit_tokens=60_000, remaining_tokens=remaining, reset_tokens=reset)
    return Hints(limit_requests=60_000, remaining_requests=remaining, reset_requests=reset)


def sent_on_a_bucket(pacer: Pacer, remaining: int, *, begin: int = 0, unit: str = "tokens") -> None:
    for second in range(begin, begin + 20, 2):
        accept(pacer, 100, second, hints=bucket_hints(remaining, unit=unit))


def test_a_limit_of_requests_is_shared_by_what_is_left_of_its_bucket_as_well() -> None:
    def gap(pacer: Pacer) -> float:
        starts = [pacer.reserve(1, 100.0).start for _ in range(201)]
        return (starts[-1] + 0.1 - starts[0]) / 200

    pacer = Pacer()
    sent_on_a_bucket(pacer, 5_999, unit="requests")
    assert pacer.limit("requests") == 60_000
    assert pacer.limit("tokens") is None
    assert gap(pacer) == pytest.approx(1 / 970)
    sent_on_a_bucket(pacer, 0, begin=20, unit="requests")
    assert gap(pacer) == pytest.approx(32 / 970, rel=0.02)


def test_replies_without_vectors_tell_of_no_bucket() -> None:
    pacer = Pacer()
    for second in range(0, 40, 2):
        pacer.observe(bucket_hints(2_000), second)
        pacer.observe(bucket_hints(2_000, unit="requests"), second)
    assert pacer.max_batch_tokens == 1_620
    starts = [pacer.reserve(0, 100.0).start for _ in range(98)]
    assert starts[-1] == pytest.approx(100.0)


@pytest.mark.parametrize("hints", [Hints(limit_tokens=30_000), Hints(limit_requests=30_000)])
def test_a_refusal_right_after_a_limit_fell_teaches_nothing(hints: Hints) -> None:
    pacer = Pacer(concurrency=8)
    pacer.observe(Hints(limit_tokens=60_000, limit_requests=60_000), 0.0)
    accept(pacer, 970, 0.0)
    refusal = refuse(pacer, 970, 5.0, hints=hints, seconds=5.0, in_flight=8)
    assert not refusal.too_large
    assert refusal.closes
    assert pacer.concurrency == 8
    accept(pacer, 970, 20.0)
    pace = 970.0 / 2 if hints.limit_tokens else 970.0
    first, second = pacer.reserve(pace, 100.0), pacer.reserve(pace, 100.0)
    assert second.start - first.start == pytest.approx(0.9)


@pytest.mark.parametrize("unit", ["tokens", "requests"])
def test_a_refusal_that_the_bucket_announced_teaches_nothing_and_another_one_does(unit: str) -> None:
    paces = []
    for remaining in (0, 1 if unit == "requests" else 100):
        pacer = Pacer(tokens_per_minute=1_000_000)
        sent_on_a_bucket(pacer, 5_900, unit=unit)
        for _ in range(3):
            refuse(pacer, 100, 50.0, hints=bucket_hints(remaining, unit=unit))
        accept(pacer, 1, 51.0)
        sent_on_a_bucket(pacer, 5_900, begin=60, unit=unit)
        pacer.reserve(0, 300.0)
        first, second = pacer.reserve(9_700, 300.0), pacer.reserve(9_700, 300.0)
        paces.append(9_700 / (second.start - first.start + 0.1))
    assert paces[0] > 1.1 * paces[1]


def test_what_refusals_taught_is_forgotten_once_the_headers_tell_of_a_bucket() -> None:
    pacer = Pacer()
    for second in range(30):
        accept(pacer, 10, second, seconds=0.0)
    refuse_alone(pacer, 10, 30.0)
    accept(pacer, 10, 31.0, seconds=0.0)

    def gap(now: float) -> float:
        first, second = pacer.reserve(97, now), pacer.reserve(97, now)
        return second.start - first.start + 0.1

    assert gap(100.0) > 5.0
    for second in range(200, 220, 2):
        accept(pacer, 100, second, hints=bucket_hints(5_900))
    assert gap(300.0) == pytest.approx(0.1, rel=0.01)
    for second in (400.0, 410.0):
        for _ in range(3):
            refuse(pacer, 97, second, hints=bucket_hints(5_900))
        accept(pacer, 97, second + 1.0, hints=bucket_hints(5_900))
    assert gap(500.0) > 0.11


@pytest.mark.parametrize("unit", ["tokens", "requests"])
def test_p15_a_pace_of_the_first_seconds_is_forgotten_once_the_headers_tell_of_a_bucket_of_any_unit(unit: str) -> None:
    pacer = Pacer()
    accept(pacer, 100, 0.0)
    refuse(pacer, 100, 1.0, hints=bucket_hints(0, unit=unit))
    accept(pacer, 100, 10.0)
    assert pacer._congestion.is_asked
    sent_on_a_bucket(pacer, 5_900, begin=200, unit=unit)
    assert not pacer._congestion.is_asked


def test_what_refusals_taught_slows_no_requests_that_carry_nothing() -> None:
    pacer = Pacer()
    refuse_alone(pacer, 10, 0.0)
    accept(pacer, 10, 2.0)
    assert [pacer.reserve(0, 100.0).start for _ in range(3)] == [100.0] * 3


@pytest.mark.parametrize(
    ("requests", "tokens", "grown"), [(None, None, 1.05), (600_000, None, 1.0), (None, 2_400_000, 1.0118)]
)
@pytest.mark.parametrize("carried_at_once", [True, False])
def test_where_a_limit_is_known_the_pace_after_a_refusal_grows_slowly(
    requests: float | None, tokens: float | None, grown: float, carried_at_once: bool
) -> None:
    pacer = Pacer(requests_per_minute=requests, tokens_per_minute=tokens)
    for second in range(60):
        accept(pacer, 100, second, seconds=0.0)
    refuse_alone(pacer, 100, 60.0)
    accept(pacer, 100, 60.5, seconds=0.0)
    assert pacer._congestion.rate == pytest.approx(100.0, rel=0.1)
    before, now = pacer._congestion.rate, 1_000.0
    for _ in range(16):
        reservation = pacer.reserve(100 if carried_at_once else 10, now)
        now = reservation.start
        pacer.resize(reservation, 100, 1, now)
    assert pacer._congestion.rate == pytest.approx(grown * before, rel=0.002)
