"""A pool of four addresses at a small scale; benchmarks.pool has the bar, in five minutes and more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.promises.pool import CASES, Case, run
from tests.stage.clock import run_virtual


@pytest.mark.parametrize("case", [CASES[2], CASES[-1]], ids=lambda case: case.name)
def test_the_sum_of_the_rates_though_one_refuses_and_one_is_away(case: Case) -> None:
    """Of the few minutes the beginning, the end and the way back are a larger part."""
    outcome = run_virtual(run, replace(case, seconds=130.0))
    assert (outcome.wrong, outcome.again) == (0, 0)
    assert outcome.share >= 0.85, outcome
