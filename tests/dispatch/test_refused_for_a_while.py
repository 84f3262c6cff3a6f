"""Everything is refused for some seconds (row A15): by another job, a server that starts, or a short window. On virtual
time; batches take a tenth of a second, eight at a time."""

from __future__ import annotations

import pytest

from tests.stage.refusing import away, run_job, window


@pytest.mark.parametrize("rested", [0.0, 3_600.0])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("begins", "ends"), [(0.0, 3.0), (0.0, 30.0), (0.05, 1.0), (0.15, 10.0)])
def test_a15_what_refuses_all_for_a_while_is_no_pace(begins: float, ends: float, told: bool, rested: float) -> None:
    """It was taken for one, which a job of half a second then kept to for minutes."""
    assert run_job(away(begins, ends), 30, told=told, rested=rested).seconds < ends + 8.0


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0])
def test_a15_a_server_that_was_away_for_a_moment_is_found_within_twice_that_time(seconds: float) -> None:
    """What a request waits before the gate is closed does not make the gate's own waits longer."""
    assert run_job(away(0.0, seconds), 30, told=False).seconds < 2 * seconds + 2.0


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("most", "seconds"), [(5, 5.0), (10, 10.0)])
def test_a15_a_short_window_is_found_to_be_one(most: int, seconds: float, told: bool) -> None:
    assert run_job(window(most, seconds), 60, told=told).seconds < 2.6 * 60 / most * seconds
