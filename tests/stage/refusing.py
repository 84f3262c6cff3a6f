"""Jobs of small batches against a server that refuses with 429, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from aembed import Embedder, FakeProvider, RateLimitError
from aembed.types import Hints
from tests.jobs import words
from tests.stage.clock import run_virtual

Wait = Callable[[float], float | None]
"""The seconds until a request that comes then would be accepted; None where it is, which counts."""
SECONDS_A_REPLY = 0.1


class Ran(NamedTuple):
    seconds: float
    refused: int
    requests: int


def away(begins: float, ends: float) -> Wait:
    """Refuses all for a while."""
    return lambda at: ends - at if begins <= at < ends else None


def window(most: int, seconds: float) -> Wait:
    """Takes so many requests in so many seconds, whichever they are."""
    accepted: list[float] = []

    def wait(at: float) -> float | None:
        held = [each for each in accepted if each > at - seconds]
        if len(held) >= most:
            return held[0] + seconds - at
        accepted.append(at)
        return None

    return wait


def run_job(wait: Wait, batches: int, *, told: bool, rested: float = 0.0) -> Ran:
    """`told`: the refusals name the seconds to wait. Nothing else does. An Embedder that has `rested` has done another
    job before, and then nothing for so many seconds."""
    refused, begins = 0, inf if rested else 0.0

    def script(number: int, texts: object) -> Exception | None:
        nonlocal refused
        at = asyncio.get_running_loop().time() - begins
        seconds = wait(at) if at >= 0.0 else None
        if seconds is None:
            return None
        refused += 1
        return RateLimitError("429: busy", status_code=429, hints=Hints(retry_after=seconds if told else None))

    async def job() -> Ran:
        provider = FakeProvider(latency=SECONDS_A_REPLY, script=script)
        nonlocal begins
        async with Embedder(provider, max_batch_size=10) as embedder:
            if rested:
                await embedder.embed_documents(words(10 * batches))
                await asyncio.sleep(rested)
                begins = asyncio.get_running_loop().time()
            found = await embedder.embed_documents(words(10 * batches))
        assert not found.failures
        return Ran(asyncio.get_running_loop().time() - begins, refused, provider.ledger.requests)

    return run_virtual(job)
