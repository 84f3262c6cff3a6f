from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.service.limits import RateLimits, duration
from tests.service.windows import (
    WINDOWS,
    FixedMinute,
    Gcra,
    PerSecond,
    SlidingMinute,
    TokenBucket,
    Window,
    WindowKind,
)

KINDS = sorted(WINDOWS)
COSTS = st.lists(st.tuples(st.integers(1, 60), st.floats(0, 30)), min_size=1, max_size=60)
LIMIT = 600.0


def greedy(window: Window, arrivals: list[tuple[int, float]], start: float = 0.0) -> list[tuple[float, int]]:
    """A client that waits exactly as long as it is told; every wait must be enough, and no shorter one."""
    now, admitted = start, []
    for cost, pause in arrivals:
        now += pause
        if wait := window.wait(cost, now):
            assert window.wait(cost, now + 0.99 * wait) > 0
            now += wait
            assert window.wait(cost, now) == 0
        window.spend(cost, now)
        admitted.append((now, cost))
    return admitted


def most_in(admitted: list[tuple[float, int]], seconds: float) -> float:
    return max(sum(cost for at, cost in admitted if start <= at < start + seconds - 1e-6) for start, _ in admitted)


@given(COSTS)
def test_a_fixed_minute_holds_at_most_its_limit(arrivals: list[tuple[int, float]]) -> None:
    minutes: dict[int, int] = {}
    for at, cost in greedy(FixedMinute(LIMIT), arrivals):
        minute = math.floor((at + 1e-6) / 60)
        minutes[minute] = minutes.get(minute, 0) + cost
    assert max(minutes.values()) <= LIMIT


@given(COSTS)
def test_no_sliding_minute_holds_more_than_the_limit(arrivals: list[tuple[int, float]]) -> None:
    assert most_in(greedy(SlidingMinute(LIMIT), arrivals), 60) <= LIMIT


@given(COSTS, st.floats(0.1, 120))
def test_a_bucket_passes_its_burst_and_its_rate(arrivals: list[tuple[int, float]], seconds: float) -> None:
    most = LIMIT * 0.1 + seconds * LIMIT / 60
    assert most_in(greedy(TokenBucket(LIMIT), arrivals), seconds) <= most + 1e-3


@given(COSTS)
def test_gcra_admits_what_a_token_bucket_of_the_same_burst_admits(arrivals: list[tuple[int, float]]) -> None:
    gcra, bucket = greedy(Gcra(LIMIT), arrivals), greedy(TokenBucket(LIMIT), arrivals)
    assert [at for at, _ in gcra] == pytest.approx([at for at, _ in bucket], abs=1e-5)


@given(st.lists(st.tuples(st.integers(1, 10), st.floats(0, 3)), min_size=1, max_size=60))
def test_a_second_holds_at_most_its_sixtieth(arrivals: list[tuple[int, float]]) -> None:
    seconds: dict[int, int] = {}
    for at, cost in greedy(PerSecond(LIMIT), arrivals):
        second = math.floor(at + 1e-6)
        seconds[second] = seconds.get(second, 0) + cost
    assert max(seconds.values()) <= LIMIT / 60


def test_a_cost_above_a_seconds_share_passes_and_uses_up_the_next_seconds() -> None:
    window = PerSecond(LIMIT)
    assert window.wait(35, 0.5) == 0
    window.spend(35, 0.5)
    assert window.wait(1, 0.5) == pytest.approx(2.5)
    assert window.wait(10, 0.5) == pytest.approx(3.5)
    assert window.remaining(3.0) == pytest.approx(5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_greedy_client_uses_the_whole_limit(kind: WindowKind) -> None:
    admitted = greedy(WINDOWS[kind](LIMIT), [(5, 0.0)] * 600)
    first_minutes = sum(cost for at, cost in admitted if 60 <= at + 1e-6 < 240)
    assert first_minutes == pytest.approx(3 * LIMIT, abs=5)


@pytest.mark.parametrize(("kind", "never"), [("fixed", 601), ("sliding", 601), ("bucket", 61), ("gcra", 61)])
def test_what_can_never_pass_waits_for_ever(kind: WindowKind, never: int) -> None:
    assert WINDOWS[kind](LIMIT).wait(never, 0.0) == math.inf
    assert WINDOWS[kind](LIMIT).wait(never - 1, 0.0) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_remaining_falls_by_what_is_spent_and_comes_back_by_the_reset(kind: WindowKind) -> None:
    window = WINDOWS[kind](LIMIT)
    full = window.remaining(0.25)
    window.spend(6, 0.25)
    assert window.remaining(0.25) == pytest.approx(full - 6)
    assert 0 < window.reset(0.25) <= 60
    assert window.remaining(0.25 + window.reset(0.25)) == pytest.approx(full)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_limit_changed_on_the_way_holds_from_then_on(kind: WindowKind, factor: float) -> None:
    window = WINDOWS[kind](LIMIT)
    changed = greedy(window, [(5, 0.0)] * 240)[-1][0]
    window.change(LIMIT * factor, changed)
    later = greedy(window, [(5, 0.0)] * 900, start=changed)
    settled = sum(cost for at, cost in later if changed + 60 <= at < changed + 180)
    assert settled / 2 == pytest.approx(LIMIT * factor, rel=0.1)


def test_both_limits_hold_and_a_refused_request_spends_nothing() -> None:
    limits = RateLimits.of("fixed", 3, 100)
    assert limits.admit(60, 0.0) is None
    excess = limits.admit(50, 0.0)
    assert excess is not None
    assert (excess.unit, excess.limit, excess.used, excess.requested, excess.wait) == ("tokens", 100, 60, 50, 60)
    assert limits.admit(20, 0.0) is None
    assert limits.admit(20, 0.0) is None
    excess = limits.admit(0, 0.0)
    assert excess is not None
    assert excess.unit == "requests"
    assert limits.headers(0.0)["x-ratelimit-remaining-tokens"] == "0"


def test_a_service_may_charge_for_refused_requests_too() -> None:
    limits = RateLimits(FixedMinute(2), FixedMinute(10), charge_refused=True)
    assert [limits.admit(11, 0.0) is None for _ in range(3)] == [False] * 3
    excess = limits.admit(1, 0.0)
    assert excess is not None
    assert excess.unit == "requests"


def test_no_limits_admit_everything_and_say_nothing() -> None:
    assert all(RateLimits().admit(10**9, 0.0) is None for _ in range(10))
    assert RateLimits().headers(0.0) == {}


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0ms"),
        (0.006, "6ms"),
        (0.0051, "6ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (90, "1m30s"),
        (360, "6m0s"),
        (3_723.5, "1h2m3.5s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_waits_of_a_sliding_minute_are_those_of_its_oldest_entries() -> None:
    window = SlidingMinute(100)
    for at in range(10):
        window.spend(10, float(at))
    waits = [window.wait(cost, 9.0) for cost in (10, 20, 100)]
    assert waits == [51.0, 52.0, 60.0]
    assert all(a < b for a, b in pairwise(waits))
