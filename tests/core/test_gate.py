from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.gate import Gate, pause_seconds


def fail(gate: Gate, now: float, wait: float = 1.0) -> float:
    return gate.note_failure(gate.enter(now), now, wait=wait)


def closed(now: float = 0.0) -> Gate:
    gate = Gate()
    for _ in range(5):
        fail(gate, now)
    assert not gate.is_open
    return gate


def test_p1_a_rate_limit_closes_the_gate_for_its_hint_and_is_no_failure() -> None:
    gate = Gate()
    gate.note_refusal(gate.enter(0.0), 0.0, wait=30.0, hinted=True)
    assert not gate.may_pass(29.9)
    assert gate.may_pass(30.0)


@pytest.mark.parametrize("hinted", [False, True])
def test_a15_a_429_that_names_no_exhausted_limit_closes_nothing(hinted: bool) -> None:
    """Law 7: its own request waits, and nobody else."""
    gate = Gate()
    for _ in range(100):
        gate.note_refusal(gate.enter(0.0), 0.0, wait=30.0, hinted=hinted, closes=False)
    assert gate.may_pass(0.0)
    assert gate.closings == 0
    assert gate.rest_seconds(30.0, hinted=hinted) == (30.0 if hinted else 0.0)


def test_a15_where_the_gate_is_closed_a_429_of_the_probe_keeps_it_closed() -> None:
    gate = closed()
    gate.note_refusal(gate.enter(1.0), 1.0, wait=40.0, hinted=True, closes=False)
    assert gate.opens_at == 41.0


@pytest.mark.parametrize("closes", [True, False])
def test_a_provider_that_refuses_everything_is_lost_after_max_outage(closes: bool) -> None:
    gate = Gate(max_outage=900.0)
    assert gate.lost_at == inf
    for now in (100.0, 500.0, 999.0):
        gate.note_refusal(gate.enter(now), now, wait=1.0, closes=closes)
        assert gate.lost_at == 1_000.0
    assert not gate.is_lost(999.9)
    assert gate.is_lost(1_000.0)
    gate.note_success(gate.enter(999.9))
    assert gate.lost_at == inf


def test_four_failures_in_a_row_close_nothing_and_the_fifth_does() -> None:
    gate = Gate()
    assert [fail(gate, 0.0) for _ in range(3)] == [1.0] * 3
    assert fail(gate, 0.0) > 0.0
    assert gate.is_open
    fail(gate, 0.0)
    assert not gate.is_open


def test_a_success_between_starts_the_row_again() -> None:
    gate = Gate()
    for _ in range(10):
        fail(gate, 0.0)
        gate.note_success(gate.enter(0.0))
    assert gate.is_open


def test_one_probe_at_a_time_and_its_success_opens() -> None:
    gate = closed()
    probe = gate.enter(1.0)
    assert probe.probe
    assert not gate.may_pass(2.0)
    gate.note_success(probe)
    assert gate.is_open
    assert gate.may_pass(2.5)


def test_without_a_hint_each_wait_is_as_long_as_all_before_and_five_seconds_at_most() -> None:
    gate = closed()
    now, gaps = 0.0, []
    for _ in range(6):
        gaps.append(gate.opens_at - now)
        now = gate.opens_at
        assert gate.note_failure(gate.enter(now), now, wait=60.0 if gaps[4:] else 1.0) == 0.0
    assert gaps == [1.0, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_hint_may_keep_the_probes_away_for_longer() -> None:
    gate = closed()
    gate.note_failure(gate.enter(1.0), 1.0, wait=40.0, hinted=True)
    assert gate.opens_at == 41.0


def test_a_probe_that_hangs_holds_the_next_back_for_five_seconds_only() -> None:
    gate = closed()
    gate.enter(1.0)
    assert not gate.may_pass(5.9)
    assert gate.may_pass(6.0)


def test_after_a_probe_that_hung_the_next_waits_no_longer_than_its_request_does() -> None:
    gate = closed()
    gate.note_failure(gate.enter(30.0), 62.0, wait=0.8)
    assert gate.opens_at == 62.8


def test_a_probe_that_is_abandoned_lets_the_next_go() -> None:
    gate = closed()
    gate.note_abandoned(gate.enter(1.0))
    assert gate.may_pass(1.1)


def test_after_a_rate_limit_earlier_requests_do_not_open_the_gate() -> None:
    gate = Gate()
    earlier = gate.enter(0.0)
    gate.note_refusal(gate.enter(0.0), 1.0, wait=10.0, hinted=True)
    gate.note_success(earlier)
    assert not gate.may_pass(5.0)


def test_failures_while_the_provider_is_away_are_not_the_request_s() -> None:
    gate = Gate()
    in_flight = [gate.enter(0.0) for _ in range(64)]
    blames = [gate.note_failure(gate_pass, 0.1, wait=1.0) for gate_pass in in_flight]
    assert all(blames[:5])
    assert not any(blames[5:])


def test_p12_where_others_fail_as_often_a_request_is_hardly_to_blame() -> None:
    gate, random = Gate(), Random(0)
    for _ in range(500):
        if random.random() < 0.3:
            fail(gate, 0.0)
        else:
            gate.note_success(gate.enter(0.0))
    assert 0.0 < fail(gate, 0.0) < 0.4
    assert gate.closings == 0


def test_a_failed_request_rests_for_longer_the_more_fail_in_a_row() -> None:
    gate, rests = Gate(), []
    for _ in range(5):
        fail(gate, 0.0)
        rests.append(gate.rest_seconds(1.0))
    assert rests == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.0])
    assert Gate().rest_seconds(30.0, hinted=True) == 30.0


def test_lost_after_max_outage_without_one_success() -> None:
    gate = Gate(max_outage=900.0)
    assert not gate.is_lost(1e6)
    fail(gate, 100.0)
    assert not gate.is_lost(999.9)
    assert gate.is_lost(1_000.0)
    gate.note_success(gate.enter(1_000.0))
    assert not gate.is_lost(1e6)


@given(
    backoff=st.floats(0.0, 60.0),
    hint=st.none() | st.floats(allow_nan=True, allow_infinity=True),
    seed=st.integers(0, 1_000),
)
def test_p2_a_pause_is_jittered_capped_and_never_before_the_hint(backoff: float, hint: float | None, seed: int) -> None:
    seconds = pause_seconds(backoff, hint, Random(seed))
    believed = min(hint, 120.0) if hint is not None and 0.0 <= hint < inf else 0.0
    assert 0.0 <= seconds <= 1.1 * max(backoff, believed)
    assert seconds >= 0.5 * backoff
    if hint is not None and 0.0 <= hint <= 120.0:
        assert seconds >= hint


def test_p2_a_hint_of_less_than_a_second_is_a_hint() -> None:
    assert 0.5 <= pause_seconds(0.0, 0.5, Random(0)) <= 0.55
    assert pause_seconds(0.0, 0.0, Random(0)) == 0.0


def test_repr_shows_counts() -> None:
    gate = closed()
    assert repr(gate) == "<Gate closed, 5 failures in a row, closed 1 times, 0 probes>"
    gate.note_abandoned(gate.enter(5.0))
    gate.note_success(gate.enter(5.0))
    while gate.is_open:
        fail(gate, 6.0)
    assert "closed 2 times, 2 probes" in repr(gate)
    assert repr(Gate()) == "<Gate open, 0 failures in a row, closed 0 times, 0 probes>"


def test_a_gate_that_is_open_lets_everybody_pass_at_any_time() -> None:
    gate = Gate()
    assert gate.may_pass(-1e9)
    assert not gate.enter(0.0).probe
    assert gate.is_open


def test_a_hint_of_an_earlier_request_keeps_the_probes_away_and_never_brings_them_nearer() -> None:
    gate = Gate()
    earlier = [gate.enter(0.0) for _ in range(8)]
    for gate_pass in earlier[:5]:
        gate.note_failure(gate_pass, 1.0, wait=4.0)
    assert gate.opens_at == 5.0
    gate.note_failure(earlier[5], 1.0, wait=30.0)
    assert gate.opens_at == 5.0
    gate.note_failure(earlier[6], 1.0, wait=30.0, hinted=True)
    assert gate.opens_at == 31.0
    gate.note_failure(earlier[7], 2.0, wait=2.0, hinted=True)
    assert gate.opens_at == 31.0


def test_an_earlier_request_opens_a_gate_that_failures_closed() -> None:
    gate = Gate()
    earlier = gate.enter(0.0)
    for _ in range(5):
        fail(gate, 0.0)
    gate.note_success(earlier)
    assert gate.is_open


def test_after_a_probe_met_a_rate_limit_earlier_requests_do_not_open_the_gate() -> None:
    gate = Gate()
    earlier = gate.enter(0.0)
    for _ in range(5):
        fail(gate, 0.0)
    gate.note_refusal(gate.enter(2.0), 2.0, wait=10.0, hinted=True)
    gate.note_success(earlier)
    assert not gate.is_open


def test_a_gate_that_was_opened_remembers_no_rate_limit_and_no_pause() -> None:
    gate = Gate()
    earlier = gate.enter(0.0)
    gate.note_refusal(gate.enter(0.0), 0.0, wait=4.0)
    gate.note_success(gate.enter(4.0))
    for _ in range(5):
        fail(gate, 6.0, wait=0.5)
    assert gate.opens_at == 6.5
    gate.note_success(earlier)
    assert gate.is_open


def test_rate_limits_are_no_failures_in_a_row() -> None:
    gate = Gate()
    for second in range(0, 20, 2):
        gate.note_refusal(gate.enter(second), second, wait=1.0)
        gate.note_success(gate.enter(second + 1))
    assert gate.rest_seconds(1.0) == 0.0
    assert fail(gate, 30.0) == 1.0
    assert gate.rest_seconds(1.0) == pytest.approx(0.2)


def test_a_success_ends_the_row_whole() -> None:
    gate = Gate()
    fail(gate, 0.0)
    gate.note_success(gate.enter(0.0))
    assert gate.rest_seconds(1.0) == 0.0
    fail(gate, 0.0)
    assert gate.rest_seconds(1.0) == pytest.approx(0.2)


def test_a_request_rests_for_a_second_at_most_while_others_succeed_at_times() -> None:
    """A server that fails three of four keeps the gate open for longer rows; no rest is longer for it."""
    gate = Gate()
    for _ in range(100):
        for _ in range(3):
            fail(gate, 0.0)
        gate.note_success(gate.enter(0.0))
    for _ in range(9):
        fail(gate, 0.0)
    assert gate.is_open
    assert gate.rest_seconds(30.0) == 1.0


def test_twenty_failures_in_a_row_are_no_accident_on_any_server() -> None:
    gate, failures = Gate(), 0
    for _ in range(100):
        for _ in range(3):
            fail(gate, 0.0)
        gate.note_success(gate.enter(0.0))
    while gate.is_open:
        fail(gate, 0.0)
        failures += 1
    assert 10 < failures <= 20


def test_an_outage_counts_from_its_first_failure_and_lasts_fifteen_minutes_at_most() -> None:
    gate = Gate()
    for now in (100.0, 500.0, 900.0):
        fail(gate, now)
    assert not gate.is_lost(999.9)
    assert gate.is_lost(1_000.0)


def test_a_server_that_recovers_is_no_longer_taken_for_a_flaky_one() -> None:
    gate = Gate()
    for _ in range(40):
        fail(gate, 0.0)
        gate.note_success(gate.enter(0.0))
    assert fail(gate, 0.0) < 1.0
    for _ in range(400):
        gate.note_success(gate.enter(0.0))
    assert fail(gate, 0.0) == 1.0


def test_a15_what_waits_alone_waits_as_long_as_it_was_told() -> None:
    assert {pause_seconds(0.0, 6.0, Random(seed), alone=True) for seed in range(100)} == {6.0}
    assert len({pause_seconds(1.0, None, Random(seed), alone=True) for seed in range(100)}) == 100


def test_a_gate_that_a_rate_limit_closed_is_one_of_an_outage_once_any_of_its_probes_has_hung() -> None:
    gate = Gate()
    gate.note_refusal(gate.enter(0.0), 0.0, wait=10.0, hinted=True)
    first = gate.enter(10.0)
    gate.enter(15.0)
    assert gate.is_limited
    gate.note_failure(first, 20.0, wait=1.0)
    assert not gate.is_limited
    assert not gate.is_open
