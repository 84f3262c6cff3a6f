from __future__ import annotations

import pytest

from aembed import AuthenticationError, UnavailableError
from aembed.core.metering import LATENCIES, Meter, measured
from aembed.results import Stats


def test_latency_is_that_of_the_last_answers() -> None:
    meter = Meter()
    assert measured(Stats(), [meter]).latency_p50 is None
    for seconds in [9.0] * 100 + [float(number) for number in range(1, LATENCIES + 1)]:
        meter.note_answer(seconds, 1, None)
    stats = measured(Stats(), [meter])
    assert (stats.latency_p50, stats.latency_p95) == (LATENCIES / 2, 487.0)
    one = Meter()
    one.note_answer(0.5, 1, None)
    assert (measured(Stats(), [one]).latency_p50, measured(Stats(), [one]).latency_p95) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("price", "named", "cost"), [(None, None, None), (2.0, None, 4e-6), (2.0, 0.5, 1.0), (None, 0.5, 1.0)]
)
def test_the_cost_is_as_the_replies_name_it_and_else_by_the_price(
    price: float | None, named: float | None, cost: float | None
) -> None:
    meter = Meter(price_usd=price)
    for _ in range(2):
        meter.note_answer(1.0, 1, named)
    assert measured(Stats(), [meter]).cost_usd == (None if cost is None else pytest.approx(cost))


def test_errors_are_counted_by_class_and_what_is_none_of_ours_is_not() -> None:
    meter = Meter()
    for error in (UnavailableError("a"), UnavailableError("b"), AuthenticationError("c"), ValueError("d")):
        meter.note_error(error)
    assert measured(Stats(), [meter]).errors == {"UnavailableError": 2, "AuthenticationError": 1}


def test_of_several_addresses_each_has_its_own_and_all_have_the_sum() -> None:
    one, other = Meter(price_usd=1.0), Meter(price_usd=1.0)
    one.note_answer(1.0, 1_000_000, None)
    other.note_answer(3.0, 2_000_000, 0.5)
    other.note_error(UnavailableError("away"))
    stats = measured(Stats(in_flight=7, addresses={"a.test": Stats(), "b.test": Stats(accepted=4)}), [one, other])
    assert (stats.in_flight, stats.billed_tokens, stats.cost_usd) == (7, 3_000_000, 1.5)
    assert (stats.latency_p50, stats.latency_p95, stats.errors) == (1.0, 3.0, {"UnavailableError": 1})
    first, second = stats.addresses["a.test"], stats.addresses["b.test"]
    assert (first.billed_tokens, first.cost_usd, first.latency_p95, first.errors) == (1_000_000, 1.0, 1.0, {})
    assert (second.accepted, second.cost_usd, second.latency_p50) == (4, 0.5, 3.0)

    unpriced = Meter()
    assert measured(Stats(), [one, unpriced]).cost_usd == 1.0
    unpriced.note_answer(1.0, 1, None)
    assert measured(Stats(), [one, unpriced]).cost_usd is None
