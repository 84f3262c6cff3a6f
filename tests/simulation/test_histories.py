from __future__ import annotations

import gc
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.simulation.history import History
from tests.simulation.schedule import draw

SCHEDULES = int(os.environ.get("AEMBED_SCHEDULES", "2000"))
PARTS = 20
"""So that no test takes longer than its timeout; raise that (--timeout) with AEMBED_SCHEDULES."""


@pytest.fixture(autouse=True)
def of_the_dead_no_word(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A process that is killed leaves coroutines that never began: they are no leak of the program."""
    caplog.set_level(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        yield
        gc.collect()


def ended(seed: int) -> list[str]:
    history = History(draw(seed))
    try:
        history.check()
    except BaseException as error:
        raise AssertionError(f"{error}; run: python -m tests.simulation.replay {seed}") from error
    return history.kinds


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_happens_nothing_is_lost_and_nothing_is_bought_twice(
    part: int, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = Counter(kind for seed in range(part, SCHEDULES, PARTS) for kind in ended(seed))
    assert not [record for record in caplog.records if "unexpected" in record.message]
    assert SCHEDULES < 2_000 or kinds.keys() >= {"done", "crash", "CancelledError", "StoreError"}


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_takes_the_same_steps_every_time(seed: int) -> None:
    one, two = (History(draw(seed)) for _ in range(2))
    one.check()
    two.check()
    assert one.steps == two.steps
    assert one.books.ledger.events == two.books.ledger.events


def test_schedules_differ() -> None:
    assert len({repr(draw(seed)) for seed in range(50)}) == 50
