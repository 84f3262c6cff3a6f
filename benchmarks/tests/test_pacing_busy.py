"""Whole jobs against servers that are busy or refuse by chance, on virtual time; benchmarks.busy has all the rows."""

from __future__ import annotations

import pytest

from benchmarks.beside.busy import judged
from benchmarks.beside.busy_clients import fixed, ours
from benchmarks.beside.busy_servers import Server, always, switched
from tests.stage.clock import run_virtual


@pytest.mark.parametrize(
    ("server", "batches", "concurrency"),
    [
        (Server("7 at a time", takes=always(7), retry_after=1.0), 60, 8),
        (Server("7 at a time", takes=always(7), retry_after=1.0), 600, 8),
        (Server("4 at a time", takes=always(4), retry_after=1.0), 60, 8),
        (Server("4 at a time", takes=always(4)), 600, 32),
        (Server("2 at a time", takes=always(2), retry_after=6.0, mean_seconds=0.3, sigma=0.5), 60, 32),
        (Server("1 at a time", takes=always(1)), 60, 8),
        (Server("7 then 3 at a time", takes=switched(7, 3, 0.6), changes=1), 60, 8),
        (Server("every 20th", every=20, retry_after=1.0), 60, 8),
        (Server("every 10th", every=10, retry_after=6.0), 60, 8),
    ],
    ids=lambda value: value.name if isinstance(value, Server) else None,
)
def test_a15_a_job_takes_as_long_as_with_the_best_number_at_a_time(
    server: Server, batches: int, concurrency: int
) -> None:
    """Or 1.3 times that, and the longest chain of waits that one batch was told; 3 % and a burst may be refused."""
    met, line = judged(server, batches, concurrency, seeds=[0])
    assert met, line


def test_a20_headers_of_two_seconds_that_nothing_enforces_slow_nothing_down() -> None:
    """As they say it, 60 batches of 500 tokens would take 25 s."""
    server = Server("4 at a time", takes=always(4), two_second_headers=True)
    met, line = judged(server, 60, 8, seeds=[0])
    assert met, line
    run = run_virtual(ours, server, 8, 600, 0)
    assert run.seconds <= 1.3 * 600 * 0.1 / 4


@pytest.mark.parametrize(
    ("server", "batches", "concurrency"),
    [
        (Server("4 at a time", takes=always(4), retry_after=6.0), 600, 8),
        (Server("2 then 16", takes=switched(2, 16, 4.5), changes=1, mean_seconds=0.3, sigma=0.5), 60, 32),
    ],
    ids=lambda value: value.name if isinstance(value, Server) else None,
)
def test_a15_no_try_outlasts_the_job_and_none_waits_for_its_reply(
    server: Server, batches: int, concurrency: int
) -> None:
    """Near the end of a list no number is tried again whose refusal would wait for longer than what remains."""
    best = min(run_virtual(fixed, server, count, batches, 0).seconds for count in (2, 4, 8))
    assert run_virtual(ours, server, concurrency, batches, 0).seconds <= 1.02 * best
