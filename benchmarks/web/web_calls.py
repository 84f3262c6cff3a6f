"""Many callers with one text each, in a process of its own: what one call costs the client.

    python -m benchmarks.web_calls aembed http://127.0.0.1:8000/v1 --calls 20000 --at-once 2000

Runs in the peers' venv too (`openai`), so nothing of ours is imported before it is used. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

MODEL = "text-embedding-3-small"
KEY = "sk-web"


@asynccontextmanager
async def aembed(url: str) -> AsyncIterator[Callable[[str], Awaitable[Sequence[float]]]]:
    from aembed import Embedder

    async with Embedder(f"openai:{MODEL}", api_key=KEY, base_url=url) as embedder:
        yield embedder.embed_query


@asynccontextmanager
async def openai(url: str) -> AsyncIterator[Callable[[str], Awaitable[Sequence[float]]]]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(api_key=KEY, base_url=url) as client:

        async def embed(text: str) -> Sequence[float]:
            reply = await client.embeddings.create(model=MODEL, input=text)
            return reply.data[0].embedding

        yield embed


async def work(name: str, url: str, calls: int, at_once: int) -> dict[str, Any]:
    async with {"aembed": aembed, "openai": openai}[name](url) as embed:
        await embed("warm up")
        numbers = iter(range(calls))

        async def caller() -> None:
            for number in numbers:
                assert len(await embed(f"what does the caller number {number} ask for")) == 1536

        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller() for _ in range(at_once)))
        return {
            "cpu_us": 1e6 * (time.process_time() - cpu) / calls,
            "per_second": calls / (time.perf_counter() - began),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["aembed", "openai"])
    parser.add_argument("url")
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--at-once", type=int, default=2_000)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(work(options.name, options.url, options.calls, options.at_once))))


if __name__ == "__main__":
    main()
