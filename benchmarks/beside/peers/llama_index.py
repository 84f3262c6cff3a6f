"""LlamaIndex. It sends newlines as spaces, so its vectors are those of other texts: checked as such."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.embeddings.openai import OpenAIEmbedding

from benchmarks.beside.peers.job import MODEL, Embed, Job, Rows

MOST_TEXTS = 700
"""It does not count tokens: no 700 sections in a row pass the 300,000 of a request, 1,000 do."""


def sent(text: str) -> str:
    return text.replace("\n", " ")


def embed(job: Job) -> Embed:
    options: dict[str, Any] = {} if job.retries is None else {"max_retries": job.retries}
    client = OpenAIEmbedding(
        model=MODEL,
        api_key=job.key,
        api_base=job.url,
        embed_batch_size=min(job.max_texts, MOST_TEXTS),
        num_workers=job.concurrency,
        timeout=job.timeout,
        **options,
    )

    async def run(texts: Sequence[str]) -> Rows:
        return await client.aget_text_embedding_batch(list(texts))

    return run


def alone(job: Job) -> Embed:
    """With its own defaults: 100 texts a batch, all batches at once."""
    client = OpenAIEmbedding(model=MODEL, api_key=job.key, api_base=job.url, timeout=job.timeout)

    async def run(texts: Sequence[str]) -> Rows:
        return await client.aget_text_embedding_batch(list(texts))

    return run
