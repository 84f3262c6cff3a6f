"""A real server that is overloaded, by aembed and by a plain loop: `python -m benchmarks.overload`.

infinity-emb refuses with 429, without a hint, while its queue is full. The plain loop is httpx with as many requests at
a time, and an exponential backoff of half a second. Both embed the same number of new texts in turn, round by round;
the server counts the refusals. Exits 1 if the median of aembed is above that of the loop. The first run installs the
server into a venv of its own; where that fails, nothing is measured, and it says so and exits 0.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from time import monotonic

import httpx
import numpy as np

from aembed import Embedder, open_provider
from benchmarks.beside.overload_server import MODEL, Overloaded, serving

TEXTS_A_BATCH = 20
DIMENSIONS = 32
CONCURRENCY = (8, 32)
BACKOFF_BASE, BACKOFF_MAX = 0.5, 8.0

Client = Callable[[str, int, Sequence[str]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Round:
    seconds: float
    refused: int


async def ours(url: str, concurrency: int, texts: Sequence[str]) -> None:
    provider = open_provider(f"openai:{MODEL}", base_url=url, dimensions=DIMENSIONS, api_key="unused")
    async with Embedder(provider, concurrency=concurrency, max_batch_size=TEXTS_A_BATCH) as embedder:
        embeddings = await embedder.embed_documents(texts)
    assert not embeddings.failures
    assert np.asarray(embeddings).shape == (len(texts), DIMENSIONS)


async def plain_loop(url: str, concurrency: int, texts: Sequence[str]) -> None:
    slots, random = asyncio.Semaphore(concurrency), Random()

    async def until_accepted(client: httpx.AsyncClient, batch: Sequence[str]) -> None:
        body = {"model": MODEL, "input": batch, "encoding_format": "base64"}
        for attempt in range(1_000):
            reply = await client.post(f"{url}/embeddings", json=body)
            if reply.status_code == httpx.codes.OK:
                assert len(reply.json()["data"]) == len(batch)
                return
            assert reply.status_code == httpx.codes.TOO_MANY_REQUESTS, reply.text
            await asyncio.sleep(min(BACKOFF_MAX, BACKOFF_BASE * 2.0**attempt) * random.uniform(0.75, 1.0))
        raise AssertionError("refused a thousand times")

    async def send(client: httpx.AsyncClient, batch: Sequence[str]) -> None:
        async with slots:
            await until_accepted(client, batch)

    async with httpx.AsyncClient(timeout=60.0) as client:
        starts = range(0, len(texts), TEXTS_A_BATCH)
        await asyncio.gather(*[send(client, texts[start : start + TEXTS_A_BATCH]) for start in starts])


async def measured(server: Overloaded, client: Client, concurrency: int, texts: Sequence[str]) -> Round:
    refused, began = await server.refused(), monotonic()
    await client(server.url, concurrency, texts)
    seconds = monotonic() - began
    return Round(seconds, await server.refused() - refused)


async def contest(server: Overloaded, concurrency: int, count: int, rounds: int) -> bool:
    """Whether aembed was not slower."""
    results: dict[Client, list[Round]] = {ours: [], plain_loop: []}
    for number in range(rounds):
        order = (ours, plain_loop) if number % 2 == 0 else (plain_loop, ours)
        for client in order:
            of = f"{concurrency} {number} {client.__name__}"
            texts = [f"text {index} of {of}: the quick brown fox jumps over the lazy dog" for index in range(count)]
            results[client].append(await measured(server, client, concurrency, texts))
    mine, loop = (median(one.seconds for one in results[client]) for client in (ours, plain_loop))
    met = mine <= loop
    print(
        f"{'ok    ' if met else 'MISSED'} {concurrency:2} at a time: aembed {mine:5.2f} s {told(results[ours])}, "
        f"plain loop {loop:5.2f} s {told(results[plain_loop])}: {mine / loop:4.2f} x",
        flush=True,
    )
    return met


def told(rounds: Sequence[Round]) -> str:
    seconds = [one.seconds for one in rounds]
    refused = median(one.refused for one in rounds)
    return f"({min(seconds):.2f} to {max(seconds):.2f}, {refused:g} refused)"


async def run(count: int, rounds: int) -> int:
    async with serving() as server:
        await ours(server.url, 1, ["the first text"])
        met = [await contest(server, concurrency, count, rounds) for concurrency in CONCURRENCY]
    return 0 if all(met) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    try:
        return asyncio.run(run(options.count, options.rounds))
    except LookupError as error:
        print(f"SKIPPED: infinity-emb does not run here: {error}")
        return 0


if __name__ == "__main__":
    sys.exit(main())
