"""The Dispatcher against the judge's windows, on virtual time; benchmarks.promises.pacing prints the whole table."""

from __future__ import annotations

from random import Random

import pytest

from benchmarks.promises.pacing import KINDS, SEEDS, UNITS, Case, Unit, done, figures, processes
from tests.service.windows import WindowKind
from tests.stage.clock import run_virtual
from tests.stage.simulation import Service


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_known_limit_is_used_and_never_hit(kind: WindowKind, unit: Unit) -> None:
    minutes = Case(kind, unit, known=True).minutes(5)
    assert sum(minute.refused for minute in minutes) == 0
    assert figures(minutes[1:])[0] >= 0.96


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_learned_from_headers_is_used(kind: WindowKind, unit: Unit) -> None:
    minutes = Case(kind, unit, headers=True).minutes(5)
    assert figures(minutes)[1] <= 0.01
    assert figures(minutes[1:])[0] >= 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_without_headers_refusals_teach_the_pace(kind: WindowKind) -> None:
    used, refused = figures(Case(kind).minutes(8)[2:])
    assert used >= 0.9
    assert refused <= 0.02


@pytest.mark.parametrize("headers", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_p14_limits_that_change_are_followed_within_two_minutes(kind: WindowKind, headers: bool) -> None:
    case = Case(kind, headers=headers, changes=((5, 0.5), (9, 1.0)))
    runs = [case.minutes(14, seed=seed) for seed in range(4)]
    for settled in (slice(7, 9), slice(11, 14)):
        after = [minute for minutes in runs for minute in minutes[settled]]
        used, refused = figures(after)
        assert used >= 0.9
        assert refused <= 0.02 + 1 / sum(minute.accepted for minute in after)


def test_quanta_of_a_second_are_not_run_into() -> None:
    case = Case("second", limit=10_000_000, known=True)
    assert figures(minute for seed in SEEDS for minute in case.minutes(8, seed)[2:])[1] <= 0.02


def test_p15_eight_processes_share_a_key() -> None:
    for bar in processes():
        assert bar.is_met, str(bar)


def test_p11_an_outage_costs_what_is_in_flight_and_the_probes() -> None:
    service = Service(headers=False, fault=lambda now: 5.0 <= now < 65.0)
    client = run_virtual(done, service, 3_000, 64)
    assert sum(client.done.values()) == 3_000
    assert client.failed == 0
    assert sum(service.faults.values()) <= 104
    assert max(client.done[second] for second in range(65, 76)) >= 250


def test_p12_random_failures_do_not_close_the_gate() -> None:
    random = Random(0)
    service = Service(random=random, headers=False, fault=lambda now: random.random() < 0.3)
    client = run_virtual(done, service, 3_000, 8)
    assert 3_000 <= sum(client.done.values()) <= 3_200  # with those that ask whether the provider is well
    assert client.failed == 0
    assert client.dispatcher._requests.admission.gate.closings <= 1
