"""Real servers with tiny models, reached by their own rows: `python -m benchmarks.real_servers`.

Of 200 texts each vector must be that of its text asked for alone; then a text that is too long, and what the server
tells of itself. It prints what was seen, and fails where a vector is another one.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import numpy as np

from aembed import Embedder, open_provider
from benchmarks.beside import overload_server

LONG = "safe " * 3_000


@asynccontextmanager
async def infinity() -> AsyncIterator[str]:
    async with overload_server.serving() as server:
        yield server.url


SERVERS: dict[str, Callable[[], AbstractAsyncContextManager[str]]] = {
    "infinity": infinity,
}


async def try_out(prefix: str, url: str) -> None:
    texts = [f"text number {i} says {'a b c ' * (i % 20)}" for i in range(200)]
    async with Embedder(open_provider(f"{prefix}:tiny", base_url=url), concurrency=2) as embedder:
        embeddings = await embedder.embed_documents([*texts, LONG])
        failures = {failure.index: str(failure.error) for failure in embeddings.failures}
        alone = [await embedder.embed_query(text) for text in texts[:20]]
        far = max(1 - float(np.dot(found, embeddings[i])) for i, found in enumerate(alone))
        report = embeddings.report
        print(f"{prefix} at {url}: {embedder.space}")
        print(f"  {report.stored} stored, {report.requests} requests, {report.billed_tokens} tokens billed")
        print(f"  the most that cosine to the text alone is below 1: {far:.1e}")
        print(f"  failures: {failures}")
        if far > 1e-3 or not failures.keys() <= {200}:
            raise SystemExit(1)


async def main(names: list[str]) -> None:
    for name in names or SERVERS:
        async with SERVERS[name]() as url:
            await try_out(name, url)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
