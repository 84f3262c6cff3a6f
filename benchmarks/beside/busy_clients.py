"""What does the same job against the servers of benchmarks.beside.busy: aembed, and plain loops of so many workers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from aembed import Embedder
from aembed.errors import RateLimitError
from aembed.types import Hints, Reply
from benchmarks.beside.busy_servers import BusyService, Server
from tests.service.in_process import inline
from tests.stage.simulation import Endpoint, now

TEXTS_A_BATCH = 50
BYTES_A_TEXT = 40
TOKENS_A_BATCH = TEXTS_A_BATCH * BYTES_A_TEXT // 4
BACKOFF_BASE, BACKOFF_MAX = 0.5, 8.0


@dataclass(frozen=True, slots=True)
class Run:
    """`longest_waits`: the longest chain of waits that one batch was told. `lost`: batches that were given up."""

    seconds: float
    refusals: int
    longest_waits: float = 0.0
    lost: int = 0


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
    return Run(seconds, service.refusals, endpoint.longest_waits)


class Chained(Endpoint):
    """Keeps how long each batch was told to wait, one wait after another."""

    def __init__(self, service: BusyService) -> None:
        super().__init__(service, "", 300_000)
        self._waits: dict[str, float] = {}

    @property
    def longest_waits(self) -> float:
        return max(self._waits.values(), default=0.0)

    async def embed(self, texts: Sequence[str], *, input_type: object) -> Reply:
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
                await service.call(TOKENS_A_BATCH, TEXTS_A_BATCH, "")
                return
            except RateLimitError as error:
                backoff = min(BACKOFF_MAX, BACKOFF_BASE * 2.0**attempt) * service.random.uniform(0.75, 1.0)
                hint = error.hints.retry_after if error.hints else None
                wait = backoff if hint is None else hint
                chains[batch] = chains.get(batch, 0.0) + wait
                await asyncio.sleep(wait)
                attempt += 1

    await asyncio.gather(*[work() for _ in range(concurrency)])
    return Run(now() - service.began, service.refusals, max(chains.values(), default=0.0))


def reply_of(texts: Sequence[str], hints: Hints | None) -> Reply:
    return Reply(np.ones((len(texts), 1), np.float32), hints=hints or Hints(), checked=True)
