"""aembed itself, as a contestant among the others."""

from __future__ import annotations

from collections.abc import Sequence

from aembed import Embedder
from benchmarks.peers.job import MODEL, Embed, Job, Rows


def embedder(job: Job) -> Embed:
    opened = Embedder(
        f"openai:{MODEL}",
        api_key=job.key,
        base_url=job.url,
        concurrency=job.concurrency,
        timeout=job.timeout,
        max_batch_size=job.max_texts,
        tokens_per_minute=job.tokens_per_minute,
    )

    async def run(texts: Sequence[str]) -> Rows:
        embeddings = await opened.embed_documents(texts)
        return list(embeddings) if embeddings.failures else embeddings.vectors

    return run
