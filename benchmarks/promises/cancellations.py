"""Callers that are cancelled, thousands of times, over real sockets: what is left of them afterwards.

    python -m benchmarks.cancellations [--count 10000] [--client own] [--seed 1]

Half are cancelled by their task, half by an anyio scope, at any moment from before sending to after the reply.
Exits 1 if a slot, a task, a connection or a descriptor is left.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from random import Random
from time import perf_counter
from typing import Any

import anyio

from aembed import Embedder
from tests.service.in_process import DIMENSIONS, KEY, MODEL
from tests.service.server import Latency, Server

CONCURRENCY = 8
AT_ONCE = 20
"""Callers at a time: more than there are slots, so that some wait for one."""


@dataclass(slots=True)
class Outcome:
    """What was left once all had been cancelled, and whether a request then worked."""

    cancelled: int = 0
    answered: int = 0
    in_flight: int = -1
    tasks: int = -1
    connections: int = -1
    descriptors: int = -1
    slowest: float = 0.0
    works: bool = False
    seconds: float = 0.0

    def problems(self) -> Iterator[str]:
        for name in ("in_flight", "tasks", "descriptors"):
            # Fewer than before are no leak: what an earlier test had left may be collected meanwhile.
            if (left := getattr(self, name)) > 0:
                yield f"{left} {name} left"
        if self.connections > CONCURRENCY:
            yield f"{self.connections} connections for {CONCURRENCY} slots"
        if not self.works:
            yield "no request works any more"


async def cancellations(client: str, count: int, seed: int = 1) -> Outcome:
    random, outcome, began = Random(seed), Outcome(), perf_counter()
    async with Server(latency=Latency(0.05, sigma=1.0)) as server:
        before, tasks = _descriptors(), len(asyncio.all_tasks())
        async with _http_client(client) as http_client:
            options = {"api_key": KEY, "base_url": server.url, "dimensions": DIMENSIONS, "concurrency": CONCURRENCY}
            embedder = Embedder(f"openai:{MODEL}", http_client=http_client, **options)
            while outcome.cancelled < count:
                callers = [_caller(embedder, random.random(), random.random() < 0.5, outcome) for _ in range(AT_ONCE)]
                await asyncio.gather(*callers)
            async with asyncio.timeout(20):
                outcome.works = len(await embedder.embed_query("after all")) == DIMENSIONS
            outcome.connections = server.connections
            await embedder.aclose()
            outcome.in_flight = embedder.in_flight + server.ledger.in_flight
        while server.connections:  # noqa: ASYNC110 - the server sees the end of a connection a moment later
            await asyncio.sleep(0.01)
        gc.collect()
        outcome.descriptors = _descriptors() - before
        outcome.tasks = len(asyncio.all_tasks()) - tasks
    outcome.seconds = perf_counter() - began
    return outcome


def _http_client(client: str) -> AbstractAsyncContextManager[Any]:
    """None for aembed's own."""
    return nullcontext() if client == "own" else import_module(client).AsyncClient()


async def _caller(embedder: Embedder, moment: float, by_scope: bool, outcome: Outcome) -> None:
    """A query, or a list as a web app would send it, that is left within 50 ms."""
    many = moment < 0.3
    text = f"{outcome.cancelled} {moment}"
    wait = embedder.embed_documents([text, text + " too"]) if many else embedder.embed_query(text)
    seconds = moment**2 * 0.05
    if by_scope:
        with anyio.move_on_after(seconds) as scope:
            await wait
        cancelled = scope.cancelled_caught
    else:
        task = asyncio.create_task(wait)
        await asyncio.wait([task], timeout=seconds)
        began = perf_counter()
        task.cancel()
        await asyncio.wait([task])
        outcome.slowest = max(outcome.slowest, perf_counter() - began)
        cancelled = task.cancelled()
    outcome.cancelled += cancelled
    outcome.answered += not cancelled


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--client", choices=["own", "httpx", "httpx2"], default="own")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    outcome = asyncio.run(cancellations(options.client, options.count, options.seed))
    print(f"{options.client}: {outcome}")
    problems = list(outcome.problems())
    print(*problems or ["nothing is left"], sep="\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
