"""aembed itself, as a contestant among the others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from aembed import Embedder
from benchmarks.beside.peers.job import MODEL, Embed, Job, Rows


def opened(job: Job) -> Embedder:
    return Embedder(
        f"openai:{MODEL}",
        api_key=job.key,
        base_url=job.url,
        concurrency=job.concurrency,
        timeout=job.timeout,
        max_batch_size=job.max_texts,
        tokens_per_minute=job.tokens_per_minute,
    )


async def rows(embedder: Embedder, texts: Sequence[str]) -> Rows:
    embeddings = await embedder.embed_documents(texts)
    return list(embeddings) if embeddings.failures else embeddings.vectors


def embedder(job: Job) -> Embed:
    return partial(rows, opened(job))


def fresh(job: Job) -> Embed:
    """An Embedder for each run: one that has learned nothing about the account."""

    async def run(texts: Sequence[str]) -> Rows:
        async with opened(job) as embedder:
            return await rows(embedder, texts)

    return run
