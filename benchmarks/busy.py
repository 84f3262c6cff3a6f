"""What servers that take so many requests at a time, or refuse by chance, cost a job: `python -m benchmarks.busy`.

They answer 429 without a header that names a limit; which limit it is must be found out. Everything runs on virtual
time, against a simulated service whose own count is the judge. The best fixed concurrency is found by trying: a plain
loop of so many workers, each of which waits as long as the server says, or by an exponential backoff of half a second.
Exits 1 if a bar is missed. `--quick` has a fifth of the cases.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from aembed import Embedder
from aembed.errors import ProviderError, RateLimitError
from aembed.types import Hints
from benchmarks.in_process import inline
from benchmarks.simulation import REFUSAL_SECONDS, Endpoint, Service, now
from tests.chaos.clock import run_virtual

TEXTS_A_BATCH = 50
BYTES_A_TEXT = 40
FIXED = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32)
BACKOFF_BASE, BACKOFF_MAX = 0.5, 8.0
SLOWER = 1.3

Level = Callable[[float], float]
"""Of the seconds since the job began."""


def always(level: float) -> Level:
    return lambda seconds: level


@dataclass(frozen=True, slots=True)
class Server:
    """`takes` requests at a time, of which strangers take some; refuses `chance` of the others."""

    name: str
    takes: Level = field(default_factory=lambda: always(math.inf))
    chance: float = 0.0
    every: int = 0
    mean_seconds: float = 0.1
    sigma: float = 0.0
    retry_after: float | None = None
    two_second_headers: bool = False
    changes: int = 0

    def seconds(self, number: int, seed: int) -> float:
        """Of the reply of that number: whoever is served, the replies take as long."""
        drawn = Random(seed * 1_000_003 + number).gauss(0.0, self.sigma) if self.sigma else 0.0
        return self.mean_seconds * math.exp(drawn)


class BusyService(Service):
    """The texts of a request that is refused wait in `waits`: the longest chain of them is what a job may wait for."""

    def __init__(self, server: Server, seed: int) -> None:
        super().__init__(random=Random(seed), jitter=0.004)
        self.server, self.seed = server, seed
        self.began = now()
        self.accepted = self.refusals = self.most_processing = 0
        self.waits: dict[object, float] = {}
        self._processing = 0
        self._arrived = 0

    def judge(self, tokens: int, inputs: int, client: str) -> tuple[ProviderError | None, float]:
        server, random = self.server, self.random
        self._arrived += 1
        by_chance = random.random() < server.chance or (server.every and self._arrived % server.every == 0)
        if by_chance or self._processing >= server.takes(now() - self.began):
            self.refusals += 1
            return RateLimitError(
                "429: busy", status_code=429, hints=Hints(retry_after=server.retry_after)
            ), REFUSAL_SECONDS
        self.accepted += 1
        self._processing += 1
        self.most_processing = max(self.most_processing, self._processing)
        return None, server.seconds(self.accepted, self.seed)

    def answered(self, error: ProviderError | None) -> None:
        if error is None:
            self._processing -= 1

    def _hints(self, now: float, wait: float | None) -> Hints:
        if not self.server.two_second_headers:
            return Hints()
        return Hints(limit_tokens=3_000, remaining_tokens=2_910, reset_tokens=2.0, window_tokens=2.0)


@dataclass(frozen=True, slots=True)
class Run:
    seconds: float
    refusals: int
    longest_waits: float
    most_in_flight: int


async def ours(server: Server, concurrency: int, batches: int, seed: int) -> Run:
    service = BusyService(server, seed)
    texts = [f"{number:0{BYTES_A_TEXT}d}" for number in range(batches * TEXTS_A_BATCH)]
    endpoint = Chained(service)
    async with Embedder(endpoint, concurrency=concurrency, max_batch_size=TEXTS_A_BATCH) as embedder:
        embedder._engine.run_in_thread = inline
        embedder._engine.random = Random(seed)
        embeddings = await embedder.embed_documents(texts)
        seconds = now() - service.began
    assert not embeddings.failures
    return Run(seconds, service.refusals, endpoint.longest_waits, service.most_in_flight)


class Chained(Endpoint):
    """Keeps how long each batch was told to wait, one wait after another."""

    def __init__(self, service: BusyService) -> None:
        super().__init__(service, "", 300_000)
        self._waits: dict[str, float] = {}

    @property
    def longest_waits(self) -> float:
        return max(self._waits.values(), default=0.0)

    async def embed(self, texts: Sequence[str], *, input_type: object) -> object:
        try:
            hints = await self.service.call(len(texts) * BYTES_A_TEXT // 4, len(texts), "")
        except RateLimitError as error:
            wait = error.hints.retry_after if error.hints and error.hints.retry_after else 0.0
            self._waits[texts[0]] = self._waits.get(texts[0], 0.0) + 1.1 * wait
            raise
        return reply_of(texts, hints)


async def fixed(server: Server, concurrency: int, batches: int, seed: int) -> Run:
    service = BusyService(server, seed)
    left = iter(range(batches))
    chains: dict[int, float] = {}

    async def work() -> None:
        for batch in left:
            await until_accepted(batch)

    async def until_accepted(batch: int) -> None:
        attempt = 0
        while True:
            try:
                await service.call(TEXTS_A_BATCH * BYTES_A_TEXT // 4, TEXTS_A_BATCH, "")
                return
            except RateLimitError as error:
                backoff = min(BACKOFF_MAX, BACKOFF_BASE * 2.0**attempt) * service.random.uniform(0.75, 1.0)
                hint = error.hints.retry_after if error.hints else None
                wait = backoff if hint is None else hint
                chains[batch] = chains.get(batch, 0.0) + wait
                await asyncio.sleep(wait)
                attempt += 1

    await asyncio.gather(*[work() for _ in range(concurrency)])
    return Run(now() - service.began, service.refusals, max(chains.values(), default=0.0), service.most_in_flight)


def reply_of(texts: Sequence[str], hints: Hints | None) -> object:
    import numpy as np

    from aembed.types import Reply

    return Reply(np.ones((len(texts), 1), np.float32), hints=hints or Hints(), checked=True)


def switched(before: float, after: float, at: float) -> Level:
    return lambda seconds: before if seconds < at else after


def cases() -> Iterator[tuple[Server, int]]:
    for sigma, mean in ((0.0, 0.1), (0.5, 0.3)):
        for hint in (None, 1.0, 6.0):
            of = f"{'lognormal ' if sigma else ''}{mean} s, {'no hint' if hint is None else f'hint {hint:g} s'}"
            base = Server("", mean_seconds=mean, sigma=sigma, retry_after=hint)
            for takes in (1, 2, 4, 7, 16):
                for batches in (60, 600):
                    yield replace(base, name=f"{takes} at a time, {of}", takes=always(takes)), batches
            for before, after in ((7, 3), (3, 7), (16, 2), (2, 16), (7, 1)):
                for batches in (60, 600):
                    at = batches / 2 / before * mean
                    yield (
                        replace(
                            base,
                            name=f"{before} then {after} at a time, {of}",
                            takes=switched(before, after, at),
                            changes=1,
                        ),
                        batches,
                    )
            for batches in (60, 600):
                period = batches / 4 / 5 * mean
                takes_ = lambda seconds, period=period: 7 if int(seconds / period) % 2 == 0 else 3  # noqa: E731
                yield (
                    replace(
                        base, name=f"7 at a time, strangers take 4 half of the time, {of}", takes=takes_, changes=4
                    ),
                    batches,
                )
                yield (
                    replace(
                        base,
                        name=f"4 at a time, headers of two seconds, {of}",
                        takes=always(4),
                        two_second_headers=True,
                    ),
                    batches,
                )
            for every in (10, 20, 50):
                for batches in (60, 600):
                    yield replace(base, name=f"every {every}th refused, {of}", every=every), batches
                    yield replace(base, name=f"1 of {every} refused by chance, {of}", chance=1 / every), batches


def judged(server: Server, batches: int, concurrency: int, seed: int) -> tuple[bool, str]:
    run = run_virtual(ours, server, concurrency, batches, seed)
    tried = [run_virtual(fixed, server, count, batches, seed) for count in FIXED if count <= concurrency]
    best = min(tried, key=lambda other: other.seconds)
    wall = SLOWER * best.seconds + run.longest_waits
    requests = batches + run.refusals
    if server.chance or server.every:
        share = server.chance or 1 / server.every
        most = math.ceil((share + 0.01) * requests) if server.every else math.inf
        if server.chance:
            spread = 3 * math.sqrt(share * (1 - share) * requests)
            most = math.ceil((share + 0.01) * requests + spread)
    else:
        most = 0.03 * requests + concurrency * (1 + server.changes)
    met = run.seconds <= wall and run.refusals <= most
    return met, (
        f"{'ok    ' if met else 'MISSED'} {server.name:62} {concurrency:3} {batches:4} batches: {run.seconds:6.2f} s "
        f"({run.seconds / best.seconds:5.2f} x {best.seconds:6.2f} s, at most {wall:6.2f}), "
        f"{run.refusals:4} refused (at most {most:.0f})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    missed = 0
    for number, (server, batches) in enumerate(cases()):
        if options.only not in server.name or (options.quick and number % 5):
            continue
        for concurrency in (8, 32):
            met, line = judged(server, batches, concurrency, options.seed)
            missed += not met
            print(line, flush=True)
    print(f"{missed} bars missed" if missed else "all bars met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
