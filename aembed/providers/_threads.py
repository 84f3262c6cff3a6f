"""Threads of our own, for work that would hold up the event loop (law 11).

Those that anyio hands out by default may all be taken by endpoints that wait for us (`anyio.from_thread`): then none
would come back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")

# Chosen: as many as requests in flight by default, so that no reply waits for another's. More threads than that share
# the same cores.
THREADS = 8
"""At a time, for each event loop."""

_limiter: RunVar[CapacityLimiter] = RunVar("aembed_threads")


async def run_in_thread(function: Callable[..., T], *arguments: object) -> T:
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(THREADS)
        _limiter.set(limiter)
    return await to_thread.run_sync(function, *arguments, limiter=limiter)
