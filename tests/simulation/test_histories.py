from __future__ import annotations

import gc
import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.simulation.batches import BatchesHistory, of_batches
from tests.simulation.history import History
from tests.simulation.pools import of_a_pool
from tests.simulation.servers import draw
from tests.simulation.tables import Make, drawn, in_memory, of_a_store, of_a_table
from tests.simulation.workers import WorkersHistory, of_workers

SCHEDULES = int(os.environ.get("AEMBED_SCHEDULES", "1200"))
TABLES = SCHEDULES // 20
"""Of them so many are played on real files, whose tables lose rows: half on columns of the user's, half on stores. Each
takes as long as three others."""
POOLS = SCHEDULES // 15
"""As many beside are sent to a pool of addresses."""
WORKERS = SCHEDULES // 150
"""As many beside have several workers at once, on one coordinator and one cache."""
BATCHES = SCHEDULES // 100
"""As many beside are days of jobs with batches."""
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


def ended(history: History | WorkersHistory | BatchesHistory, how: str) -> list[str]:
    try:
        history.check()
    except BaseException as error:
        raise AssertionError(f"{error}; run: python -m tests.simulation.replay {how}") from error
    return history.kinds


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_happens_nothing_is_lost_and_nothing_is_bought_twice(
    part: int, caplog: pytest.LogCaptureFixture
) -> None:
    seeds = range(part, SCHEDULES - 3 * TABLES, PARTS)
    kinds = Counter(kind for seed in seeds for kind in ended(History(draw(seed)), str(seed)))
    assert not [record for record in caplog.records if "unexpected" in record.message]
    assert SCHEDULES < 2_000 or kinds.keys() >= {"done", "crash", "CancelledError", "StoreError"}


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("make", [of_a_table, of_a_store], ids=["tables", "stores"])
def test_t1_t2_t3_whatever_a_table_does_what_is_told_is_true_and_nothing_is_bought_without_end(
    make: Make, part: int, tmp_path: Path
) -> None:
    how = "--tables" if make is of_a_table else "--stores"
    kinds = Counter(k for seed in range(part, TABLES // 2, 4) for k in ended(make(seed, tmp_path), f"{how} {seed}"))
    assert kinds.keys() >= {"done", "crash"}


@pytest.mark.parametrize("part", range(4))
def test_e11_e12_whatever_addresses_do_the_promises_hold_while_one_of_them_is_well(part: int, tmp_path: Path) -> None:
    kinds = Counter(k for seed in range(part, POOLS, 4) for k in ended(of_a_pool(seed, tmp_path), f"--pools {seed}"))
    assert kinds.keys() >= {"done", "crash"}


@pytest.mark.parametrize("part", range(2))
def test_t36_t37_whatever_happens_to_workers_no_budget_is_passed_and_nothing_is_bought_twice(
    part: int, tmp_path: Path
) -> None:
    kinds = Counter[str]()
    for seed in range(part, WORKERS, 2):
        (folder := tmp_path / str(seed)).mkdir()
        kinds.update(ended(of_workers(seed, folder), f"--workers {seed}"))
    assert kinds.keys() >= {"done", "BudgetExceededError"}


@pytest.mark.parametrize("part", range(2))
def test_q16_q18_whatever_happens_in_days_of_batches_rows_are_right_and_nothing_is_bought_twice_untold(
    part: int, tmp_path: Path
) -> None:
    kinds = Counter[str]()
    for seed in range(part, BATCHES, 2):
        (folder := tmp_path / str(seed)).mkdir()
        kinds.update(ended(of_batches(seed, folder), f"--batches {seed}"))
    assert kinds.keys() >= {"done", "crash"}


@pytest.mark.parametrize(
    ("make", "seed"),
    [
        (of_a_table, 159),
        (in_memory, 1275),
        (in_memory, 534706),
        (in_memory, 576833),
        (in_memory, 598611),
        (in_memory, 521235),
        (in_memory, 660983),
        (of_workers, 600523),
        (of_batches, 504789),
    ],
    ids=[
        "a refusal and broken replies, one after the other, without end",
        "a reply format tried after a bad key",
        "three controls are broken by chance while other texts are accepted",
        "a text is cut short after it was broken as all others were",
        "a text is broken again after it was broken as all others were, and not tried in the next job",
        "a last job has nothing but empty texts",
        "a job that its store stopped is cancelled in its last step",
        "a worker whose closing is cancelled opens the coordinator again",
        "a batch that came late has the vectors that another one did not bring",
    ],
)
def test_a2_t2_what_failed_once_holds(
    make: Callable[[int, Path], History | BatchesHistory | WorkersHistory], seed: int, tmp_path: Path
) -> None:
    flag = {of_a_table: "--tables ", of_workers: "--workers ", of_batches: "--batches "}.get(make, "")
    ended(make(seed, tmp_path), f"{flag}{seed}")


@pytest.mark.parametrize(
    "seed",
    [38, 248, 228, 311, 332, 388, 396, 402, 1324, 5071, 5182],
    ids=[
        "a broken reply goes on and on to the only address that is there",
        "a text waits without end for an address that only refuses as too early",
        "a text fails that one address alone has failed",
        "a bad key of the last address stops the job",
        "a text is refused for good by an address that has accepted nothing",
        "an address that refuses all stops the job while the other is away",
        "two addresses that hang share a text without end",
        "a control waits for an address that it may not ask",
        "an address that has accepted nothing is believed as the others are late",
        "a part goes back to an address that hangs, again and again",
        "of two addresses that failed it a text goes to the one that fails everything",
    ],
)
def test_e11_e12_what_failed_once_holds(seed: int, tmp_path: Path) -> None:
    ended(of_a_pool(seed, tmp_path), f"--pools {seed}")


@pytest.mark.parametrize(
    "seed",
    [20060, 104133, 104231],
    ids=[
        "a twin that never ran is billed",
        "two batch runs wait for what the other has gathered",
        "two batch runs of a column wait for each other once one was cancelled",
    ],
)
def test_q17_q18_what_failed_once_holds(seed: int, tmp_path: Path) -> None:
    ended(of_batches(seed, tmp_path), f"--batches {seed}")


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_takes_the_same_steps_every_time(seed: int) -> None:
    one, two = (History(draw(seed)) for _ in range(2))
    one.check()
    two.check()
    assert one.steps == two.steps
    assert one.books.ledger.events == two.books.ledger.events


def test_schedules_differ() -> None:
    assert len({repr(draw(seed)) for seed in range(50)}) == 50
    assert len({drawn(seed).name for seed in range(200)}) > 20
