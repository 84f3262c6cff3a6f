"""Real servers with tiny models, reached by their own rows: `python -m benchmarks.real_servers`, and servers that run
already: `python -m benchmarks.real_servers llamacpp=http://127.0.0.1:8080`.

Of 200 texts each vector must be that of its text asked for alone; then a text that is too long, and what the server
tells of itself. Then two of them as a pool, of which one is killed in the middle of a job. It prints what was seen, and
fails where a vector is another one, or missing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import numpy as np

from aembed import Embedded, Embedder, open_provider
from benchmarks.beside import llama_server, overload_server

LONG = "safe " * 3_000


@asynccontextmanager
async def infinity() -> AsyncIterator[str]:
    async with overload_server.serving() as server:
        yield server.url


SERVERS: dict[str, Callable[[], AbstractAsyncContextManager[str]]] = {
    "infinity": infinity,
    "llamacpp": llama_server.serving,
}


async def try_out(prefix: str, url: str) -> None:
    texts = [f"text number {i} says {'a b c ' * (i % 20)}" for i in range(200)]
    async with Embedder(open_provider(f"{prefix}:tiny", base_url=url), concurrency=2) as embedder:
        embeddings = await embedder.embed_documents([*texts, LONG])
        failures = {failure.index: str(failure.error) for failure in embeddings.failures}
        alone = [await embedder.embed_query(text) for text in texts[:20]]
        far = max(1 - cosine(found, embeddings[i]) for i, found in enumerate(alone))
        report = embeddings.report
        print(f"{prefix} at {url}: {embedder.space}")
        print(f"  {report.stored} stored, {report.requests} requests, {report.billed_tokens} tokens billed")
        print(f"  the most that cosine to the text alone is below 1: {far:.1e}")
        print(f"  failures: {failures}")
        print(f"  texts that were cut: {report.truncated}")
        if far > 1e-3 or not failures.keys() <= {200}:
            raise SystemExit(1)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


async def try_out_pool() -> None:
    """Two servers of one model, with queues that are too short, of which one is killed in the middle of the job."""
    texts = [f"text number {i} says {'a b c ' * (i % 20)}" for i in range(4_000)]
    async with overload_server.serving() as one, overload_server.serving() as other:
        pool = open_provider("infinity:tiny", base_url=[one.url, other.url])
        async with Embedder(pool, concurrency=4, max_batch_size=16) as embedder:
            found: dict[int, np.ndarray] = {}
            async with embedder.stream(texts) as results:
                async for result in results:
                    if isinstance(result, Embedded):
                        found[result.index] = result.vector
                    if len(found) == len(texts) // 4:
                        answered = {where: each.accepted for where, each in embedder.stats().addresses.items()}
                        other.process.kill()
            stats = embedder.stats()
        async with Embedder(open_provider("infinity:tiny", base_url=one.url)) as single:
            alone = {i: await single.embed_query(texts[i]) for i in range(0, len(texts), 80)}
    far = max(1 - float(np.dot(found[i], vector)) for i, vector in alone.items())
    print(f"a pool of two, one killed: {len(found)} of {len(texts)} texts, cosine at most {far:.1e} below 1")
    in_all = {where: each.accepted for where, each in stats.addresses.items()}
    print(f"  requests answered before that: {answered}; in all: {in_all}")
    print(f"  refused by short queues: {stats.throttled}")
    if len(found) != len(texts) or far > 1e-3 or not all(answered.values()):
        raise SystemExit(1)


async def main(names: list[str]) -> None:
    for name in names or SERVERS:
        prefix, is_running, url = name.partition("=")
        if is_running:
            await try_out(prefix, url)
            continue
        async with SERVERS[name]() as url:
            await try_out(name, url)
    if not names:
        await try_out_pool()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
