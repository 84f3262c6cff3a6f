"""Eight real processes on one key, with no coordinator: what they use together, what is refused, and who gets how much.

    python -m benchmarks.shared_key --seconds 120

A token bucket of 1,000,000 tokens a minute over real sockets and in real time; the judge is the service's own ledger.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
from collections.abc import AsyncIterator

from aembed.embedder import Embedder
from tests.service.ledger import Ledger
from tests.service.limits import RateLimits
from tests.service.server import Latency, Server

PROCESSES = 8
TOKENS_PER_MINUTE = 1_000_000
WARM_UP = 20.0
"""Seconds in which the processes start; they are not judged, as nobody's first minute is."""


async def texts(worker: str) -> AsyncIterator[str]:
    for number in itertools.count():
        yield f"text {number} of {worker} " + "word " * 250


async def work(url: str, worker: str) -> None:
    embedder = Embedder("openai:text-embedding-3-small", api_key="sk-shared", base_url=url)
    async with embedder, embedder.stream(texts(worker)) as results:
        async for _ in results:
            pass


async def measure(seconds: float) -> bool:
    limits = RateLimits.of("bucket", tokens_per_minute=TOKENS_PER_MINUTE)
    async with Server(limits=limits, latency=Latency(scale=1.0)) as server:
        workers = [await start(server.url, f"worker-{number}") for number in range(PROCESSES)]
        try:
            await asyncio.sleep(WARM_UP)
            before = figures(server.ledger)
            await asyncio.sleep(seconds)
            after = figures(server.ledger)
        finally:
            for worker in workers:
                worker.kill()
            await asyncio.gather(*(worker.wait() for worker in workers))
    return report(before, after, seconds)


async def start(url: str, worker: str) -> asyncio.subprocess.Process:
    environment = os.environ | {"OPENAI_PROJECT_ID": worker}
    command = (sys.executable, "-m", "benchmarks.promises.shared_key", "--url", url, "--worker", worker)
    return await asyncio.create_subprocess_exec(*command, env=environment)


def figures(ledger: Ledger) -> tuple[int, int, dict[str, int]]:
    return ledger.requests, ledger.accepted, dict(ledger.tokens_by_project)


def report(before: tuple[int, int, dict[str, int]], after: tuple[int, int, dict[str, int]], seconds: float) -> bool:
    requests, accepted = after[0] - before[0], after[1] - before[1]
    tokens = {worker: after[2][worker] - before[2].get(worker, 0) for worker in after[2]}
    used = sum(tokens.values()) / (TOKENS_PER_MINUTE * seconds / 60)
    refused = (requests - accepted) / max(1, requests)
    shares = sorted(PROCESSES * part / max(1, sum(tokens.values())) for part in tokens.values())
    print(f"{PROCESSES} processes for {seconds:g} s: {requests} requests")
    print(f"used      {used:7.1%}  (at least 90 %)")
    print(f"refused   {refused:7.1%}  (at most 3 %)")
    print("shares    " + " ".join(f"{share:.2f}" for share in shares) + "  (each 0.5 to 2)")
    met = used >= 0.9 and refused <= 0.03 and len(shares) == PROCESSES and shares[0] >= 0.5 and shares[-1] <= 2
    print("every bar is met" if met else "a bar is missed")
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        asyncio.run(work(arguments.url, arguments.worker))
    elif not asyncio.run(measure(arguments.seconds)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
