"""Everything is refused for some seconds (row A15): by another job, a server that starts, or a short window. On virtual
time; 30 batches of a tenth of a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from aembed import Embedder, FakeProvider, RateLimitError
from aembed.types import Hints
from tests.jobs import words
from tests.stage.clock import run_virtual

Wait = Callable[[float], float | None]
"""The seconds until a request that comes then would be accepted; None where it is."""


def seconds_of_a_job(wait: Wait, batches: int, *, told: bool) -> float:
    """`told`: the refusals name the seconds to wait."""

    def script(number: int, texts: object) -> Exception | None:
        seconds = wait(asyncio.get_running_loop().time())
        if seconds is None:
            return None
        return RateLimitError("429: busy", status_code=429, hints=Hints(retry_after=seconds if told else None))

    async def job() -> float:
        async with Embedder(FakeProvider(latency=0.1, script=script), max_batch_size=10) as embedder:
            found = await embedder.embed_documents(words(10 * batches))
        assert not found.failures
        return asyncio.get_running_loop().time()

    return run_virtual(job)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("begins", "ends"), [(0.0, 3.0), (0.0, 30.0), (0.05, 1.0), (0.15, 10.0)])
def test_a15_what_refuses_all_for_a_while_is_no_pace(begins: float, ends: float, told: bool) -> None:
    """It was taken for one, which a job of four seconds then kept to for minutes."""
    took = seconds_of_a_job(lambda at: ends - at if begins <= at < ends else None, 30, told=told)
    assert took < ends + 8.0


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("most", "window"), [(5, 5.0), (10, 10.0)])
def test_a15_a_short_window_is_found_to_be_one(most: int, window: float, told: bool) -> None:
    accepted: list[float] = []

    def wait(at: float) -> float | None:
        held = [each for each in accepted if each > at - window]
        if len(held) >= most:
            return held[0] + window - at
        accepted.append(at)
        return None

    least = 60 / most * window
    assert seconds_of_a_job(wait, 60, told=told) < 2.6 * least
