"""A bulk job and a search endpoint on one key, on virtual time.

    python -m benchmarks.web_lanes [--texts 1000000] [--window sliding]

50 queries a second, alone and beside the job; 10,000 requests and 5,000,000 tokens a minute. The provider takes 80 ms,
and in a second run 80 ms and 22 us a token, as the real one does. Prints the bars and exits 1 if one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from aembed import Embedder, Limits, RateLimitError, Record
from aembed.types import Hints, InputType, Reply, Space, Usage
from tests.service.in_process import inline
from tests.service.limits import RateLimits
from tests.service.windows import WINDOWS, WindowKind
from tests.stage.clock import run_virtual

REQUESTS, TOKENS = 10_000, 5_000_000
PER_SECOND = 50
TEXT = "about the many things that a text of a hundred tokens may say, " * 6
MINUTE = 60.0


class Account:
    """A provider with limits of its own, which it counts itself."""

    price_usd = None
    space = Space("account", "lanes", 4)
    limits = Limits(2_048, 300_000, 8_191)

    def __init__(self, window: WindowKind, per_token: float) -> None:
        self._windows = RateLimits.of(window, REQUESTS, TOKENS)
        self._per_token = per_token
        self.refused = 0
        self.used: dict[InputType, Counter[int]] = {"document": Counter(), "query": Counter()}

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        now = asyncio.get_running_loop().time()
        tokens = sum(map(len, texts)) // 4
        excess = self._windows.admit(tokens, now)
        if excess:
            self.refused += 1
            await asyncio.sleep(0.02)
            raise RateLimitError("429", hints=self._hints(excess.wait))
        self.used[input_type][int(now // MINUTE)] += tokens
        await asyncio.sleep(0.08 + self._per_token * tokens)
        return Reply(np.ones((len(texts), 4), np.float32), "lanes", Usage(tokens), self._hints(None))

    async def aclose(self) -> None:
        pass

    def _hints(self, retry_after: float | None) -> Hints:
        now, requests, tokens = asyncio.get_running_loop().time(), self._windows.requests, self._windows.tokens
        assert requests
        assert tokens
        return Hints(
            retry_after=retry_after,
            limit_requests=int(requests.limit),
            remaining_requests=int(requests.remaining(now)),
            reset_requests=requests.reset(now),
            limit_tokens=int(tokens.limit),
            remaining_tokens=int(tokens.remaining(now)),
            reset_tokens=tokens.reset(now),
        )


@dataclass(slots=True)
class Outcome:
    waits: list[float] = field(default_factory=list)
    failed: int = 0
    refused: int = 0
    bulk_share: float = 0.0
    minutes: float = 0.0

    def at(self, share: float) -> float:
        """Milliseconds."""
        return 1000 * sorted(self.waits)[int(share * (len(self.waits) - 1))]


async def lanes(window: WindowKind, per_token: float, texts: int) -> Outcome:
    """`texts` 0: the queries alone, for three minutes."""
    account, outcome, loop = Account(window, per_token), Outcome(), asyncio.get_running_loop()
    async with Embedder(account) as embedder:
        embedder._run_in_thread, embedder._random = inline, Random(1)
        bulk = loop.create_task(_bulk(embedder, texts) if texts else asyncio.sleep(3 * MINUTE))
        random, calls = Random(2), set[asyncio.Task[None]]()
        while not bulk.done():
            await asyncio.sleep(random.expovariate(PER_SECOND))
            call = loop.create_task(_query(embedder, f"question {random.random()}", outcome))
            calls.add(call)
            call.add_done_callback(calls.discard)
        ended = loop.time()
        await bulk
        await asyncio.gather(*calls)
    outcome.refused, outcome.minutes = account.refused, ended / MINUTE
    whole = range(1, int(ended // MINUTE))
    if texts and whole:
        used = sum(account.used["document"][minute] for minute in whole)
        rest = sum(TOKENS - account.used["query"][minute] for minute in whole)
        outcome.bulk_share = used / rest
    return outcome


async def _bulk(embedder: Embedder, texts: int) -> None:
    async with embedder.stream(_records(texts)) as results:
        async for _ in results:
            pass


def _records(texts: int) -> Iterator[Record]:
    for number in range(texts):
        text = f"{number} {TEXT}"
        yield Record(str(number), text)


async def _query(embedder: Embedder, text: str, outcome: Outcome) -> None:
    asked = asyncio.get_running_loop().time()
    try:
        await embedder.embed_query(text)
        outcome.waits.append(asyncio.get_running_loop().time() - asked)
    except Exception:
        outcome.failed += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--window", choices=sorted(WINDOWS), default="sliding")
    options = parser.parse_args()
    met = True
    for per_token in (0.0, 22e-6):
        runs: list[Any] = [run_virtual(lanes, options.window, per_token, texts) for texts in (0, options.texts)]
        alone, beside = runs
        ratio = beside.at(0.95) / alone.at(0.95)
        good = ratio <= 1.5 and beside.bulk_share >= 0.85 and not beside.failed and not beside.refused
        met &= good
        print(
            f"{options.texts:,} texts, {options.window}, 80 ms + {per_token * 1e6:g} us a token: query p95 "
            f"{alone.at(0.95):.1f} ms alone, {beside.at(0.95):.1f} beside ({ratio:.2f} x, bar 1.5), p99 "
            f"{alone.at(0.99):.1f} / {beside.at(0.99):.1f}; bulk {beside.bulk_share:.1%} of the rest (bar 85 %); "
            f"{beside.refused} refused, {beside.failed} of {len(beside.waits):,} failed, {beside.minutes:.1f} min: "
            f"{'met' if good else 'MISSED'}",
            flush=True,
        )
    return not met


if __name__ == "__main__":
    sys.exit(main())
